"""Where data sets are published, and the sums that tell their files."""

from collections.abc import Mapping
from dataclasses import dataclass, field

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""The names of MNIST's four files, which Fashion-MNIST has too, each alone or with ``.gz``; see `file_of`."""


def file_of(name: str) -> str | None:
    """Return which of `FILES` a file's name stands for: upper or lower case, a dot for a dash, ``.gz`` or not."""
    plain = name.lower().removesuffix(".gz").replace(".", "-")
    return plain if plain in FILES else None


@dataclass(frozen=True)
class Source:
    """A data set as it is published."""

    class_names: tuple[str, ...]
    mirrors: tuple[str, ...]  # the folders that hold its files, as URLs that end in a slash
    zipped: Mapping[str, str]  # the SHA-256 of each file as distributed, by its name without ``.gz``
    contents: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each file's contents, where they are known: a file may have been recompressed."""


def _by_file(*sums: str) -> dict[str, str]:
    return dict(zip(FILES, sums, strict=True))


SOURCES = {
    "mnist": Source(
        class_names=tuple("0123456789"),
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
}
