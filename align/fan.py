"""Faces and their landmarks by face-alignment's networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from realdrag.align.detectors import Box, Face, Picture, reduced
from realdrag.geometry import transform

# The box network halves its picture five times: less leaves it nothing, and it raises.
SMALLEST_PICTURE = 32
# Half of that network's smallest anchor; the landmark network's crop of a still smaller box could be empty.
SMALLEST_FACE = 8
SEARCH_SIDE = 1024
# The landmark network looks at 256 × 256 px, in which a box is 195 ÷ 200 of the side; this is about 1.6 times as fine.
FACE_SIDE = 400


class FanDetector:
    """face-alignment's s3fd boxes and 68 FAN landmarks, the kind that FFHQ's crop is defined by.

    Both networks load their weights from torch.hub's folder when the detector is built; the caller sees to it that
    they lie there. Large photos are searched on a copy of 1024 px, and landmarks are read off a copy in which the
    face is 400 px wide at most: the package samples a photo without averaging over the pixels that it skips, and cuts
    landmarks down to whole pixels, ¼ % of such a face. Pixel i then stands for the edge coordinates i … i + 1, so
    whole numbers are pixel centres and nothing is shifted.
    """

    name = "fan"

    def __init__(self, device: str) -> None:
        from face_alignment import FaceAlignment, LandmarksType

        kind = LandmarksType.TWO_D
        self._networks: Any = FaceAlignment(kind, device=device, compile=False, face_detector="sfd")

    def detect(self, rgb: Picture) -> list[Face]:
        """The faces in `rgb` [h, w, 3] uint8 sRGB with landmarks and confidence, in any order."""
        copy, to_photo = reduced(rgb, SEARCH_SIDE)
        if min(copy.shape[:2]) < SMALLEST_PICTURE:
            return []
        # not through get_landmarks_from_image, which warns where there is no face
        found = self._networks.face_detector.detect_from_image(np.ascontiguousarray(copy))
        faces = []
        for row in np.asarray(found, np.float64).reshape(-1, 5):  # x0, y0, x1, y1, score
            if min(row[2] - row[0], row[3] - row[1]) >= SMALLEST_FACE:
                corners = transform(to_photo, row[:4].reshape(2, 2))
                (x0, y0), (x1, y1) = corners.tolist()
                faces.append(Face((x0, y0, x1, y1), self._landmarks(rgb, corners), float(row[4])))
        return faces

    def face_in(self, rgb: Picture, box: Box) -> Face:
        """With the landmarks that the network reads in the box; it gives no confidence in them."""
        return Face(box, self._landmarks(rgb, np.array(box, np.float64).reshape(2, 2)))

    def _landmarks(self, rgb: Picture, corners: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """[68, 2] in photo pixels for the face with the box corners [[x0, y0], [x1, y1]] in photo pixels."""
        side = float((corners[1] - corners[0]).mean())
        copy, to_photo = reduced(rgb, round(max(rgb.shape[:2]) * FACE_SIDE / side))
        to_copy = np.asarray(np.linalg.inv(to_photo), np.float64)
        box = transform(to_copy, corners).ravel()
        (points,) = self._networks.get_landmarks_from_image(np.ascontiguousarray(copy), detected_faces=[box])
        return transform(to_photo, np.asarray(points, np.float64))
