"""The two shapes in which arrays hold pictures: RGB, channels first, R x R pixels, 0..255."""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # [3, R, R]
Pictures = NDArray[np.uint8]  # [N, 3, R, R]
