"""A picture becomes a thumbnail."""

from pathlib import Path

from PIL import Image, ImageOps

from runner import task


@task
def shrink(path: str, *, pictures: str, thumbnails: str, pixels: int) -> dict[str, object]:
    """Write the thumbnail, and return a row of the index. What Pillow raises makes the picture a dead letter."""
    small = Path(thumbnails, path).with_suffix(".jpg")
    small.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(Path(pictures, path)) as picture:
        width, height = picture.size
        picture.draft("RGB", (pixels, pixels))  # JPEG: decoded at a smaller scale
        image = ImageOps.exif_transpose(picture).convert("RGB")
    image.thumbnail((pixels, pixels))
    image.save(small, quality=85)
    return {"picture": path, "width": width, "height": height, "bytes": small.stat().st_size}
