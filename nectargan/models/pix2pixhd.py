"""The networks of pix2pixHD: the global generator and the multi-scale discriminator.

Source: Wang et al. 2018, "High-resolution image synthesis and semantic manipulation with
conditional GANs".
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import ModelError
from nectargan.models.blocks import check_whole
from nectargan.models.patchgan import PatchGANDiscriminator
from nectargan.models.resnet import ResnetGenerator


class GlobalGenerator(ResnetGenerator):
    """The ResNet generator with its residual blocks at 1/16 of the size (section 3.1, appendix).

    It has 182,443,267 parameters with the defaults, and 182,546,755 with the 36 input channels
    (labels and edges) of the paper. The arguments are those of `ResnetGenerator`.
    """

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        features: int = 64,
        n_downs: int = 4,
        n_blocks: int = 9,
        upsample_type: str = "Transposed",
        norm: str = "instance",
        dropout: float = 0.0,
        padding: str = "reflect",
        init: str = "normal",
    ) -> None:
        super().__init__(
            input_nc,
            output_nc,
            features,
            n_downs,
            n_blocks,
            upsample_type,
            norm,
            dropout,
            padding,
            init,
        )


class MultiscaleDiscriminator(nn.Module):
    """PatchGANs for the pair of images at full size, half size, a quarter and so on (section 3.2).

    They have the same architecture, but separate weights.

    Args:
        in_channels: Channels of both images together.
        n_scales: Number of PatchGANs.
        base_channels: Channels of the first layer. They double with every layer.
        n_layers: Number of convolutions with stride 2 in each PatchGAN.
        max_channels: Largest number of channels of a layer.
        norm: "instance" (no affine weights) or "batch".
        padding: "zeros" or "reflect".
        init: Initialization of the weights; see `init_weights`.
        spectral_norm: Whether to apply spectral normalization to the convolutions.

    Raises:
        ModelError: If an argument is out of range or an unknown name.
    """

    def __init__(
        self,
        in_channels: int = 6,
        n_scales: int = 3,
        base_channels: int = 64,
        n_layers: int = 3,
        max_channels: int = 512,
        norm: str = "instance",
        padding: str = "zeros",
        init: str = "normal",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        check_whole(type(self).__name__, "n_scales", n_scales, 1)
        discriminators = [
            PatchGANDiscriminator(
                in_channels,
                base_channels,
                n_layers,
                max_channels,
                norm,
                padding,
                init,
                spectral_norm,
            )
            for _ in range(n_scales)
        ]
        self.scales = nn.ModuleList(discriminators)
        self._field = discriminators[0].receptive_field
        self._check_coarsest = discriminators[-1].check_size

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Computes the logits of the pairs (x, y).

        Args:
            x: Input images ``(N, C, H, W)`` in [-1, 1].
            y: Real or generated images ``(N, in_channels - C, H, W)`` in [-1, 1].

        Returns:
            Logits ``(N, 1, H', W')`` of each scale, the full size first.
        """
        logits: list[Tensor] = []
        for scale in self.scales:
            if logits:
                x, y = _halved(x), _halved(y)
            logits.append(scale(x, y))
        return logits

    def features(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        """Computes the features of the pairs (x, y), for feature matching.

        Returns:
            One list per scale, as in `PatchGANDiscriminator.features`, the full size first.
        """
        maps: list[list[Tensor]] = []
        for scale in self.scales:
            if maps:
                x, y = _halved(x), _halved(y)
            # To mypy, an attribute of a module may be a tensor.
            maps += scale.features(x, y)  # type: ignore[operator]
        return maps

    @property
    def receptive_fields(self) -> list[int]:
        """Side of the patch that a logit of each scale depends on, in pixels of the full image."""
        fields = []
        for level in range(len(self.scales)):
            field = self._field
            for _ in range(level):
                field = (field - 1) * 2 + 3
            fields.append(field)
        return fields

    def check_size(self, height: int, width: int) -> None:
        """Raises `ModelError` if images of this size, in pixels, are too small for any scale."""
        coarsest_height, coarsest_width = height, width
        for _ in self.scales[1:]:
            # The pooling of `_halved` rounds up.
            coarsest_height, coarsest_width = (coarsest_height + 1) // 2, (coarsest_width + 1) // 2
        try:
            self._check_coarsest(coarsest_height, coarsest_width)
        except ModelError as error:
            if len(self.scales) == 1:
                raise
            raise ModelError(
                f"The discriminator cannot take images of {height} x {width} (height x width) at "
                f"{len(self.scales)} scales, the smallest of {coarsest_height} x {coarsest_width}: "
                f"{str(error).partition(': ')[2]}"
            ) from None


def _halved(images: Tensor) -> Tensor:
    """Averages 3 x 3 pixels with stride 2, ignoring pixels outside the image."""
    return F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
