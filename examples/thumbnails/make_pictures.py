"""Write a folder of pictures: `make_pictures.py FOLDER [COUNT]`. Some are cut short, one is no picture."""

import sys
from pathlib import Path

from PIL import Image

if __name__ == "__main__":
    folder, count = Path(sys.argv[1]), int(sys.argv[2] if len(sys.argv) > 2 else 60)
    shades = [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.effect_noise((256, 256), 60)]
    for number in range(1, count + 1):
        turned = [shade.rotate(number * 360 / count) for shade in shades]
        path = folder / f"album-{number % 3}" / f"picture-{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.merge("RGB", turned).resize((1600, 1200)).save(path, quality=90)
        if number % 20 == 0:  # as after an upload that broke off
            path.write_bytes(path.read_bytes()[:20_000])
    (folder / "album-0" / "notes.jpg").write_text("not a picture")
