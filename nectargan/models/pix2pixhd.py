"""The networks of pix2pixHD (Wang et al. 2018, "High-resolution image synthesis and semantic
manipulation with conditional GANs"): the global generator, and a discriminator of
several scales."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import ModelError
from nectargan.models.blocks import check_whole
from nectargan.models.patchgan import PatchGANDiscriminator
from nectargan.models.resnet import ResnetGenerator


class GlobalGenerator(ResnetGenerator):
    """The ResNet generator with its blocks at a sixteenth of the size (section 3.1 and appendix).

    With the defaults it has 182,443,267 parameters, and 182,546,755 with the paper's 36 channels of
    labels and edges as input. Arguments as for `ResnetGenerator`.
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
    """PatchGANs of one build, each with weights of its own, that see the pair at full size, at half
    of it, at a quarter and so on (section 3.2).

    Args:
        in_channels: Channels of both images together.
        n_scales: Discriminators.
        base_channels: As in `PatchGANDiscriminator`, and so are all that follow.
        n_layers: Convolutions of stride 2 in each of them.
        max_channels: No layer gets more channels than this.
        norm: "instance" or "batch".
        padding: "zeros" or "reflect".
        init: Weights at the start.
        spectral_norm: Divide the weight of each convolution by its largest singular value.

    Raises:
        ModelError: an argument is out of its range or an unknown name.
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
        """Scores the pairs (x, y).

        Args:
            x: Input images ``(N, C, H, W)`` in [-1, 1].
            y: Real or generated images ``(N, in_channels - C, H, W)`` in [-1, 1].

        Returns:
            Logits ``(N, 1, H', W')`` of each scale, the finest first.
        """
        logits: list[Tensor] = []
        for scale in self.scales:
            if logits:
                x, y = _halved(x), _halved(y)
            logits.append(scale(x, y))
        return logits

    def features(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        """What the layers make of the pairs (x, y): for each scale, see
        `PatchGANDiscriminator.features`."""
        maps: list[list[Tensor]] = []
        for scale in self.scales:
            if maps:
                x, y = _halved(x), _halved(y)
            maps += scale.features(x, y)  # type: ignore[operator]
        return maps

    @property
    def receptive_fields(self) -> list[int]:
        """Side, in pixels of the full image, of the patch that one logit of each scale sees."""
        fields = []
        for level in range(len(self.scales)):
            field = self._field
            for _ in range(level):
                field = (field - 1) * 2 + 3
            fields.append(field)
        return fields

    def check_size(self, height: int, width: int) -> None:
        """Raises `ModelError` unless images of this size, in pixels, give at least one logit at
        each scale."""
        coarsest_height, coarsest_width = height, width
        for _ in self.scales[1:]:
            # Rounded up, as a window of 3 with a border of 1 does.
            coarsest_height, coarsest_width = (coarsest_height + 1) // 2, (coarsest_width + 1) // 2
        try:
            self._check_coarsest(coarsest_height, coarsest_width)
        except ModelError as error:
            if len(self.scales) == 1:
                raise
            raise ModelError(
                f"The discriminator cannot take images of {height} x {width} (height x width) at "
                f"{len(self.scales)} scales, the coarsest of {coarsest_height} x {coarsest_width}: "
                f"{str(error).partition(': ')[2]}"
            ) from None


def _halved(images: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels at every second one; pixels beyond the border do not count."""
    return F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
