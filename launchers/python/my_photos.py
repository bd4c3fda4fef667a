"""Segment a folder of photos from Python, cell by cell (VS Code, Jupyter, Spyder and PyCharm run `# %%` cells).

python launchers/python/my_photos.py my_photos
python launchers/python/my_photos.py my_photos backbone=vit_base_patch16_224.dino weights=dino_vitbase16_pretrain.pth
"""

# %% What to segment: a folder of images, at any depth. No labels are needed.
import sys
from pathlib import Path

from stego_dist import fit

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "my_photos")
options = dict(word.split("=", 1) for word in sys.argv[2:])

# %% Learn. What is finished is kept: the cell may be run again, and returns at once when all of it is.
model = fit(folder, seconds=1200, **options)

# %% Look at one image.
image = min(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
seg = model(image)
print(f"{image.name}: {seg.size[1]}×{seg.size[0]} pixels")
for name, share in sorted(seg.shares().items(), key=lambda entry: -entry[1]):
    print(f"  {name:<20}{share:6.1%}   confidence {seg.confidences()[name]:.2f}")
seg.overlay().save("overlay.png")

# %% The arrays themselves.
print(seg.labels.shape, seg.labels.dtype, [entry.name for entry in seg.names.classes])
print(seg.probabilities.shape, seg.confidence.mean())

# %% Many images at once: windows of one size go through the network together.
for number, found in enumerate(model.segment(sorted(folder.rglob("*.jpg"))[:16], batch_size=8)):
    found.index_image().save(f"segmented_{number:02d}.png")  # class ids, with the classes' colours as palette
