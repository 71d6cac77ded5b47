"""How much each class's pixels count in a loss, from how many there are."""

import numpy as np

LOG, MEDIAN = "log", "median"
KINDS = (LOG, MEDIAN)


def class_weights(kind: str, pixels_NC: np.ndarray) -> list[float]:
    """The weight of each class, from the pixels of each class in each image; pixels without a class are not counted.

    `log` is ENet's, 1 / ln(1.02 + share) of all images' pixels (Paszke et al., 2016): from 1.4 of a class that is
    everywhere to 50.5 of one that is nowhere.

    `median` is SegNet's, median / frequency (Eigen and Fergus, ICCV 2015). A class's frequency is its share of the
    pixels of those images that show it, and the median is that of all classes' frequencies. A class that no image shows
    has none, and the weight 1.
    """
    total_C = pixels_NC.sum(0)
    if not total_C.any():
        return [1.0] * len(total_C)
    if kind == LOG:
        return (1 / np.log(1.02 + total_C / total_C.sum())).tolist()
    beside_C = ((pixels_NC > 0) * pixels_NC.sum(1, keepdims=True)).sum(0)
    shown_C = total_C > 0
    frequency_C = total_C / np.maximum(beside_C, 1)
    median = float(np.median(frequency_C[shown_C]))
    return np.where(shown_C, median / np.where(shown_C, frequency_C, 1), 1.0).tolist()
