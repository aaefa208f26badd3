"""Where data sets are published, and the sums that identify their files."""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field

from xpmlp.data.preparation import MNIST

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""The names of MNIST's four files, with or without ``.gz``. Some sets use other names for the same files."""

ARCHIVE = "gzip.zip"
"""The archive in which all parts of EMNIST are published."""


@dataclass(frozen=True)
class Source:
    """A data set as it is published."""

    class_names: tuple[str, ...]
    mirrors: tuple[str, ...]
    """The folders with its files, as URLs that end in a slash."""
    zipped: Mapping[str, str]
    """The sum of each distributed file, if known, by MNIST's name for it: SHA-256, or MD5 if the publisher states only
    that."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each file's contents, if known: a file may have been recompressed."""
    names: tuple[str, ...] = FILES
    """The names of the four files there, without ``.gz``, in MNIST's order."""
    archive: str = ""
    """The sum of `ARCHIVE`, if the files are published in one."""
    preparation: str | None = None
    is_transposed: bool = False
    """Whether rows and columns of each image are exchanged."""
    first_label: int = 0

    def file_of(self, name: str) -> str | None:
        """Return the entry of `FILES` for a file's name: in any case, with a dot or a dash, with ``.gz`` or not."""
        plain = name.lower().removesuffix(".gz").replace(".", "-")
        return dict(zip(self.names, FILES, strict=True)).get(plain)


def algorithm_of(sum_: str) -> str:
    """Return the algorithm of a hexadecimal sum."""
    return "md5" if len(sum_) == 32 else "sha256"


def _by_file(*sums: str) -> dict[str, str]:
    return dict(zip(FILES, sums, strict=True))


def _names(set_: str, labels: str = "labels-idx1-ubyte") -> tuple[str, ...]:
    """Return the names of files that begin with the set's own."""
    return tuple(f"{set_}-{part}-{kind}" for part in ("train", "test") for kind in ("images-idx3-ubyte", labels))


def _emnist(split: str, class_names: str, first_label: int = 0) -> Source:
    return Source(
        class_names=tuple(class_names),
        mirrors=("https://biometrics.nist.gov/cs_links/EMNIST/",),
        zipped={},
        names=_names(f"emnist-{split}"),
        archive="fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
        preparation=MNIST,
        is_transposed=True,
        first_label=first_label,
    )


SOURCES = {
    "mnist": Source(
        class_names=tuple("0123456789"),
        preparation=MNIST,
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        zipped=_by_file(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        contents=_by_file(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion-mnist": Source(
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # the sums make plain HTTP safe
        ),
        zipped=_by_file(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "kmnist": Source(
        class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        zipped=_by_file(
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
    ),
    "qmnist": Source(
        class_names=tuple("0123456789"),
        mirrors=("https://raw.githubusercontent.com/facebookresearch/qmnist/master/",),
        names=_names("qmnist", "labels-idx2-int"),
        zipped=_by_file(
            "ed72d4157d28c017586c42bc6afe6370",
            "0058f8dd561b90ffdd0f734c6a30e5e4",
            "1394631089c404de565df7b7aeaf9412",
            "5b5b05890a5e13444e108efe57b788aa",
        ),
        preparation=MNIST,
    ),
    "emnist-letters": _emnist("letters", string.ascii_uppercase, first_label=1),
    "emnist-balanced": _emnist("balanced", string.digits + string.ascii_uppercase + "abdefghnqrt"),
    "emnist-digits": _emnist("digits", string.digits),
    "emnist-mnist": _emnist("mnist", string.digits),
}
"""The sources by name. Only mnist's sums were checked against the files. Several libraries state the others."""
