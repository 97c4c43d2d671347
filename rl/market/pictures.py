"""Drawn product pictures: the silhouette depends on the category, the tints on the colour, the accent on the brand."""

import colorsys
import io

import numpy as np
from PIL import Image, ImageDraw

from rl.market.products import BRANDS, COLOURS, DEPARTMENTS, Attributes

SIZE = 64  # pixels of a picture's side
SCALE = 4  # drawn this many times larger, then scaled down, for smooth edges
# polygon, ellipse or line; which tint; x, y, x, y, ... in 0..100, y downwards
Shape = tuple[str, str, tuple[float, ...]]

RGB: dict[str, tuple[int, int, int]] = {
    "Black": (52, 52, 58), "White": (236, 235, 230), "Grey": (140, 144, 150), "Red": (200, 52, 54),
    "Orange": (232, 132, 48), "Yellow": (238, 202, 72), "Green": (70, 148, 84), "Teal": (42, 150, 156),
    "Blue": (58, 104, 190), "Purple": (124, 82, 170), "Pink": (232, 140, 172), "Brown": (132, 92, 62),
}  # fmt: skip

SILHOUETTES: dict[str, tuple[Shape, ...]] = {
    "T-shirts": (
        ("polygon", "main", (32, 18, 42, 22, 58, 22, 68, 18, 92, 34, 82, 50, 72, 44, 72, 86, 28, 86, 28, 44, 18, 50, 8, 34)),
        ("ellipse", "dark", (40, 13, 60, 27)),
        ("ellipse", "accent", (54, 40, 63, 49)),
    ),
    "Shirts": (
        ("polygon", "main", (32, 16, 50, 24, 68, 16, 88, 28, 94, 76, 82, 78, 74, 46, 74, 88, 26, 88, 26, 46, 18, 78, 6, 76, 12, 28)),
        ("polygon", "light", (34, 14, 50, 24, 66, 14, 60, 32, 50, 25, 40, 32)),
        ("line", "dark", (50, 26, 50, 88)),
        ("polygon", "accent", (56, 42, 66, 42, 66, 52, 61, 56, 56, 52)),
    ),
    "Dresses": (
        ("polygon", "main", (36, 10, 42, 24, 58, 24, 64, 10, 68, 12, 66, 34, 62, 46, 84, 90, 16, 90, 38, 46, 34, 34, 32, 12)),
        ("polygon", "accent", (38, 43, 62, 43, 63, 49, 37, 49)),
    ),
    "Jackets": (
        ("polygon", "main", (30, 14, 70, 14, 90, 30, 95, 80, 82, 82, 77, 48, 77, 90, 23, 90, 23, 48, 18, 82, 5, 80, 10, 30)),
        ("polygon", "dark", (40, 14, 60, 14, 53, 40, 53, 90, 47, 90, 47, 40)),
        ("polygon", "light", (30, 60, 44, 60, 44, 64, 30, 64)),
        ("polygon", "accent", (56, 60, 70, 60, 70, 64, 56, 64)),
    ),
    "Sneakers": (
        ("polygon", "main", (10, 40, 20, 36, 36, 40, 46, 34, 56, 48, 82, 56, 92, 66, 92, 72, 10, 72)),
        ("polygon", "light", (8, 70, 93, 70, 92, 80, 10, 80)),
        ("line", "light", (46, 42, 54, 36)),
        ("line", "light", (52, 48, 60, 42)),
        ("polygon", "accent", (22, 62, 50, 56, 44, 64, 24, 67)),
    ),
    "Boots": (
        ("polygon", "main", (28, 10, 60, 10, 60, 52, 84, 62, 90, 78, 28, 78)),
        ("polygon", "dark", (26, 76, 91, 76, 91, 86, 56, 86, 52, 82, 46, 88, 26, 88)),
        ("polygon", "accent", (28, 10, 60, 10, 60, 18, 28, 18)),
        ("line", "dark", (60, 30, 50, 34)),
        ("line", "dark", (60, 42, 50, 46)),
    ),
    "Sandals": (
        ("polygon", "dark", (6, 66, 40, 70, 94, 64, 94, 72, 60, 80, 8, 78)),
        ("line", "main", (24, 68, 36, 40, 58, 70)),
        ("line", "main", (66, 68, 74, 50, 88, 66)),
        ("ellipse", "accent", (30, 36, 42, 48)),
    ),
    "Heels": (
        ("polygon", "main", (12, 24, 26, 22, 48, 54, 72, 66, 92, 72, 94, 80, 64, 80, 40, 70, 24, 48)),
        ("polygon", "dark", (12, 24, 22, 40, 20, 82, 14, 82)),
        ("ellipse", "accent", (70, 62, 80, 72)),
    ),
    "Backpacks": (
        ("polygon", "dark", (40, 14, 42, 6, 58, 6, 60, 14, 55, 14, 54, 10, 46, 10, 45, 14)),
        ("polygon", "main", (28, 20, 36, 12, 64, 12, 72, 20, 78, 88, 22, 88)),
        ("polygon", "light", (32, 54, 68, 54, 70, 82, 30, 82)),
        ("line", "dark", (30, 34, 70, 34)),
        ("polygon", "accent", (46, 62, 54, 62, 54, 70, 46, 70)),
    ),
    "Handbags": (
        ("line", "dark", (32, 44, 36, 18, 64, 18, 68, 44)),
        ("polygon", "main", (20, 42, 80, 42, 90, 86, 10, 86)),
        ("polygon", "dark", (19, 42, 81, 42, 74, 60, 26, 60)),
        ("ellipse", "accent", (45, 55, 55, 65)),
    ),
    "Wallets": (
        ("polygon", "main", (12, 32, 88, 32, 88, 76, 12, 76)),
        ("polygon", "dark", (12, 32, 88, 32, 88, 40, 12, 40)),
        ("polygon", "light", (64, 48, 88, 48, 88, 62, 64, 62)),
        ("ellipse", "accent", (69, 51, 77, 59)),
    ),
    "Suitcases": (
        ("polygon", "dark", (38, 28, 38, 6, 62, 6, 62, 28, 57, 28, 57, 11, 43, 11, 43, 28)),
        ("polygon", "main", (24, 26, 76, 26, 76, 86, 24, 86)),
        ("line", "dark", (38, 26, 38, 86)),
        ("line", "dark", (62, 26, 62, 86)),
        ("ellipse", "dark", (28, 84, 36, 93)),
        ("ellipse", "dark", (64, 84, 72, 93)),
        ("polygon", "accent", (44, 46, 56, 46, 56, 54, 44, 54)),
    ),
    "Mugs": (
        ("ellipse", "dark", (60, 34, 92, 70)),
        ("ellipse", "background", (68, 42, 84, 62)),
        ("polygon", "main", (20, 24, 72, 24, 70, 82, 22, 82)),
        ("ellipse", "light", (20, 18, 72, 30)),
        ("polygon", "accent", (21, 50, 71, 50, 71, 60, 21, 60)),
    ),
    "Lamps": (
        ("polygon", "main", (36, 10, 64, 10, 82, 48, 18, 48)),
        ("polygon", "dark", (47, 48, 53, 48, 53, 84, 47, 84)),
        ("ellipse", "dark", (30, 80, 70, 92)),
        ("polygon", "accent", (20, 44, 80, 44, 82, 48, 18, 48)),
    ),
    "Cushions": (
        ("polygon", "main", (12, 14, 50, 20, 88, 14, 82, 50, 88, 86, 50, 80, 12, 86, 18, 50)),
        ("polygon", "light", (50, 32, 68, 50, 50, 68, 32, 50)),
        ("ellipse", "accent", (44, 44, 56, 56)),
    ),
    "Vases": (
        ("polygon", "main", (40, 10, 60, 10, 57, 30, 76, 54, 70, 88, 30, 88, 24, 54, 43, 30)),
        ("ellipse", "dark", (39, 6, 61, 15)),
        ("polygon", "accent", (25, 52, 75, 52, 74, 60, 26, 60)),
    ),
    "Lipsticks": (
        ("polygon", "main", (40, 22, 60, 8, 60, 44, 40, 44)),
        ("polygon", "accent", (37, 42, 63, 42, 63, 56, 37, 56)),
        ("polygon", "dark", (34, 55, 66, 55, 66, 92, 34, 92)),
    ),
    "Perfumes": (
        ("polygon", "dark", (42, 8, 58, 8, 58, 22, 42, 22)),
        ("polygon", "accent", (38, 22, 62, 22, 62, 32, 38, 32)),
        ("polygon", "main", (22, 36, 30, 31, 70, 31, 78, 36, 78, 90, 22, 90)),
        ("polygon", "light", (34, 52, 66, 52, 66, 74, 34, 74)),
    ),
    "Creams": (
        ("polygon", "dark", (20, 34, 80, 34, 80, 50, 20, 50)),
        ("ellipse", "light", (20, 26, 80, 42)),
        ("polygon", "main", (16, 50, 84, 50, 80, 84, 20, 84)),
        ("polygon", "accent", (17, 60, 83, 60, 81, 72, 19, 72)),
    ),
    "Brushes": (
        ("polygon", "main", (34, 8, 50, 2, 66, 8, 70, 30, 60, 42, 40, 42, 30, 30)),
        ("polygon", "accent", (40, 42, 60, 42, 58, 56, 42, 56)),
        ("polygon", "dark", (43, 56, 57, 56, 53, 96, 47, 96)),
    ),
    "Watches": (
        ("polygon", "dark", (38, 4, 62, 4, 64, 30, 36, 30)),
        ("polygon", "dark", (36, 70, 64, 70, 62, 96, 38, 96)),
        ("ellipse", "main", (24, 24, 76, 76)),
        ("ellipse", "light", (32, 32, 68, 68)),
        ("line", "accent", (50, 36, 50, 50, 60, 56)),
    ),
    "Sunglasses": (
        ("line", "dark", (6, 36, 40, 40, 60, 40, 94, 36)),
        ("ellipse", "main", (8, 34, 46, 70)),
        ("ellipse", "main", (54, 34, 92, 70)),
        ("polygon", "accent", (16, 44, 26, 40, 20, 58)),
        ("polygon", "accent", (62, 44, 72, 40, 66, 58)),
    ),
    "Hats": (
        ("polygon", "main", (28, 62, 32, 28, 44, 20, 58, 22, 68, 28, 72, 62)),
        ("polygon", "accent", (29, 52, 71, 52, 72, 62, 28, 62)),
        ("ellipse", "dark", (4, 58, 96, 78)),
    ),
    "Rings": (
        ("ellipse", "main", (20, 32, 80, 92)),
        ("ellipse", "background", (32, 44, 68, 80)),
        ("polygon", "accent", (36, 16, 64, 16, 72, 26, 50, 46, 28, 26)),
    ),
}  # fmt: skip
assert set(SILHOUETTES) == {name for names in DEPARTMENTS.values() for name in names}
assert set(RGB) == set(COLOURS)


def draw_picture(attributes: Attributes, item: int, seed: int) -> bytes:
    """The PNG of a drawn product, SIZE x SIZE pixels, RGB; slightly rotated, shifted and tinted at random, by the seed."""
    rng = np.random.default_rng([seed, 4, item])
    tints = _tints(attributes.colour[item], attributes.brand[item], rng)
    side = SIZE * SCALE
    image = Image.new("RGB", (side, side), tints["background"])
    draw = ImageDraw.Draw(image)
    zoom, angle = rng.uniform(0.78, 0.95), rng.uniform(-0.14, 0.14)
    shift = rng.uniform(-4, 4, size=2)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for form, tint, numbers in SILHOUETTES[attributes.subcategory[item]]:
        points = np.array(numbers).reshape(-1, 2)
        if form == "ellipse":
            (left, top), (right, bottom) = points
            circle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            radii = np.array([right - left, bottom - top]) / 2
            points = np.array([left + right, top + bottom]) / 2 + radii * np.column_stack(
                [np.cos(circle), np.sin(circle)]
            )
        placed = [tuple(point) for point in ((points - 50) @ turn.T + 50 + shift) * side / 100]
        if form == "line":
            draw.line(placed, fill=tints[tint], width=side // 20, joint="curve")
        else:
            draw.polygon(placed, fill=tints[tint])
    file = io.BytesIO()
    image.resize((SIZE, SIZE), Image.Resampling.BOX).save(file, "PNG")
    return file.getvalue()


def _tints(colour: str, brand: str, rng: np.random.Generator) -> dict[str, tuple[int, int, int]]:
    """The colours of one picture: the product's own, a darker and a lighter tint, the brand's accent, a pale background."""
    main = np.clip(np.array(RGB[colour]) + rng.normal(0, 8, size=3), 0, 255)
    accent = np.array(colorsys.hsv_to_rgb(BRANDS.index(brand) / len(BRANDS), 0.75, 0.9)) * 255
    background = np.array([247, 246, 243]) - rng.uniform(0, 14)
    colours = {
        "main": main,
        "dark": 0.62 * main,
        "light": 0.55 * main + 115,
        "accent": accent,
        "background": background,
    }
    return {name: (int(c[0]), int(c[1]), int(c[2])) for name, c in colours.items()}
