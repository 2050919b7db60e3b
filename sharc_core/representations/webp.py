"""Images as WebP files."""

from pydantic import Field

from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.representations.base import REPRESENTATIONS
from sharc_core.representations.codec import Codec
from sharc_core.representations.encoded_images import EncodedImageRepresentation


@REPRESENTATIONS.register("webp")
class Webp(EncodedImageRepresentation):
    """WebP files, whose headers are much smaller than those of JPEG."""

    class Settings(BaseSettings):
        """quality: of libwebp, 75 by default. lossless: no pixel changes; quality is then the effort."""

        quality: int = Field(default=75, ge=1, le=100)
        lossless: bool = False

    @classmethod
    def codec_of(cls, settings):
        """Return WebP at the quality."""
        return Codec("webp", settings.quality, settings.lossless)
