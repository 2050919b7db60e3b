"""Images as JPEG files."""

from pydantic import Field

from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.representations.base import REPRESENTATIONS
from sharc_core.representations.codec import Codec
from sharc_core.representations.encoded_images import EncodedImageRepresentation


@REPRESENTATIONS.register("jpeg")
class Jpeg(EncodedImageRepresentation):
    """JPEG files, baseline with the standard's Huffman tables and 4:2:0 colours."""

    class Settings(BaseSettings):
        """quality: of Pillow, which is that of libjpeg; 75 is the default of both."""

        quality: int = Field(default=75, ge=1, le=100)

    @classmethod
    def codec_of(cls, settings):
        """Return JPEG at the quality."""
        return Codec("jpeg", settings.quality)
