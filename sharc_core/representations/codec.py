"""Image codecs: an image as the bytes of a JPEG or WebP file, and back, as Pillow makes and reads them."""

import io
from dataclasses import dataclass

import numpy as np

from sharc_core.common.errors import UserError

FORMATS = {"jpeg": "jpg", "webp": "webp"}  # the name under which Pillow reports the library


@dataclass(frozen=True)
class Codec:
    """One way of encoding images.

    format: jpeg or webp. quality: 1 to 100, as Pillow takes it. lossless: no pixel changes (webp only); the
    quality is then the effort for a small file. Everything else has Pillow's default, so JPEG stores a
    quarter of the colour values (4:2:0).
    """

    format: str
    quality: int
    lossless: bool = False

    @property
    def name(self) -> str:
        """Format and quality, for example jpeg75 or webp75-lossless."""
        return f"{self.format}{self.quality}{'-lossless' if self.lossless else ''}"

    def __str__(self) -> str:
        return self.name

    def encode(self, image: np.ndarray) -> bytes:
        """Return the file of an image (H, W, 3) uint8, header included."""
        from PIL import Image

        content = io.BytesIO()
        options = {"lossless": True} if self.lossless else {}
        Image.fromarray(image).save(content, self.format, quality=self.quality, **options)
        return content.getvalue()

    def decode(self, content: bytes) -> np.ndarray:
        """Return the image (H, W, 3) uint8 of a file that `encode` made."""
        from PIL import Image

        with Image.open(io.BytesIO(content), formats=[self.format]) as image:
            return np.array(image.convert("RGB"))

    @property
    def libraries(self) -> dict[str, str | None]:
        """Versions of what encodes and decodes, with the same bytes and pixels as long as they are the same.

        None for a library that this Pillow was built without.
        """
        import PIL
        from PIL import features

        names = [FORMATS[self.format], *(["libjpeg_turbo"] if self.format == "jpeg" else [])]
        return {"pillow": PIL.__version__} | {
            name: features.version(name) if features.check(name) else None for name in names
        }

    def check(self) -> None:
        """Raise UserError if the installed Pillow cannot encode the format."""
        if self.libraries[FORMATS[self.format]] is None:
            raise UserError(
                f"{self.format} needs a Pillow that was built with {self.format}, which this one was "
                "not: install Pillow from its wheel (pip install --force-reinstall pillow), or use another "
                "storage"
            )
