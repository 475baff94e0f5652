"""The networks that metrics look through, without torchvision: AlexNet, VGG16 and Inception v3.

Names of parameters are those of the official files of weights, which they load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.frozen import Frozen

# (convolutions, channels) of each block of VGG16.
_VGG16 = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def alexnet_layers() -> nn.Sequential:
    """The convolutions of AlexNet (Krizhevsky 2014, "one weird trick"), up to the last ReLU."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def vgg16_layers(pooling: type[nn.Module]) -> nn.Sequential:
    """The convolutions of VGG16 (Simonyan and Zisserman 2015), up to the last ReLU.

    Args:
        pooling: Makes what is between two blocks, without weights; it halves the sides.
    """
    layers: list[nn.Module] = []
    channels = 3
    for count, width in _VGG16:
        if layers:
            layers.append(pooling())
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def taps(layers: nn.Sequential, x: Tensor, wanted: tuple[int, ...]) -> Iterator[Tensor]:
    """What the layers of these numbers make of images, in their order."""
    for number, layer in enumerate(layers):
        x = layer(x)
        if number in wanted:
            yield x


class InceptionV3(Frozen):
    """The Inception v3 of TensorFlow's 2015-12-05 release, to its 2048 features of an image.

    It differs from later ones in its poolings: averages leave the border out, and the last block
    has a maximum in the place of the average (Heusel et al. 2017; weights as ported for PyTorch by
    M. Seitzer).
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB()
        self.Mixed_6b = _BlockC(128)
        self.Mixed_6c = _BlockC(160)
        self.Mixed_6d = _BlockC(160)
        self.Mixed_6e = _BlockC(192)
        self.Mixed_7a = _BlockD()
        self.Mixed_7b = _BlockE(1280, _average)
        self.Mixed_7c = _BlockE(2048, _maximum)

    def forward(self, x: Tensor) -> Tensor:
        """The features ``(N, 2048)`` of images ``(N, 3, 299, 299)`` in [-1, 1]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(dim=(2, 3))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _Convolution(nn.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.bn(self.conv(x))
        return F.relu(made)


class _BlockA(nn.Module):
    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(channels, 64, 1)
        self.branch5x5_1 = _Convolution(channels, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, padding=1)
        self.branch_pool = _Convolution(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                self.branch_pool(_average(x)),
            ],
            dim=1,
        )


class _BlockB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = _Convolution(288, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Convolution(288, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class _BlockC(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(768, 192, 1)
        self.branch7x7_1 = _Convolution(768, width, 1)
        self.branch7x7_2 = _Convolution(width, width, (1, 7), padding=(0, 3))
        self.branch7x7_3 = _Convolution(width, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = _Convolution(768, width, 1)
        self.branch7x7dbl_2 = _Convolution(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = _Convolution(width, width, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = _Convolution(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = _Convolution(width, 192, (1, 7), padding=(0, 3))
        self.branch_pool = _Convolution(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
                self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
                self.branch_pool(_average(x)),
            ],
            dim=1,
        )


class _BlockD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = _Convolution(768, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Convolution(768, 192, 1)
        self.branch7x7x3_2 = _Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat(
            [
                self.branch3x3_2(self.branch3x3_1(x)),
                self.branch7x7x3_4(seven),
                F.max_pool2d(x, 3, stride=2),
            ],
            dim=1,
        )


class _BlockE(nn.Module):
    def __init__(self, channels: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(channels, 320, 1)
        self.branch3x3_1 = _Convolution(channels, 384, 1)
        self.branch3x3_2a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Convolution(channels, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Convolution(channels, 192, 1)
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(single),
                self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(self._pool(x)),
            ],
            dim=1,
        )
