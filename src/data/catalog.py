"""The salient-object data sets: how each is laid out on disk and how many pairs it holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """A published set: names of its folder, and the (images, masks) folders inside it, the published ones first.

    Image folders named after their set (`DUTS-TR-Image`) are also found right under the data root.
    """

    title: str
    count: int | None
    homes: tuple[str, ...]
    layouts: tuple[tuple[str, str], ...]


CATALOG = {
    "duts_tr": DataSet("DUTS-TR", 10553, ("DUTS-TR",), (("DUTS-TR-Image", "DUTS-TR-Mask"),)),
    "duts_te": DataSet("DUTS-TE", 5019, ("DUTS-TE",), (("DUTS-TE-Image", "DUTS-TE-Mask"),)),
    "dut_omron": DataSet(
        "DUT-OMRON", 5168, ("DUT-OMRON",), (("DUT-OMRON-image", "pixelwiseGT-new-PNG"), ("images", "masks"))
    ),
    "ecssd": DataSet("ECSSD", 1000, ("ECSSD",), (("images", "ground_truth_mask"), ("image", "mask"))),
    "hku_is": DataSet("HKU-IS", 4447, ("HKU-IS",), (("imgs", "gt"),)),
    "msra10k": DataSet("MSRA10K", 10000, ("MSRA10K_Imgs_GT", "MSRA10K"), (("Imgs", "Imgs"), ("images", "masks"))),
    "msra_b": DataSet("MSRA-B", 5000, ("MSRA-B",), ((".", "."), ("images", "annotation"), ("image", "mask"))),
    "pascal_s": DataSet("PASCAL-S", 850, ("PASCAL-S",), (("images", "masks"), ("image", "mask"))),
    "sod": DataSet("SOD", 300, ("SOD",), (("images", "masks"), ("image", "mask"))),
    "sample_tr": DataSet("the sample training set", None, ("DUTS-TR",), (("DUTS-TR-Image", "DUTS-TR-Mask"),)),
    "sample_te": DataSet("the sample test set", None, ("DUTS-TE",), (("DUTS-TE-Image", "DUTS-TE-Mask"),)),
}
