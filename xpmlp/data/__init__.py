"""From a file to a batch on the device."""

from xpmlp.data.datasets import Dataset, LoadedData, load_dataset
from xpmlp.data.loading import DeviceLoader

__all__ = ["Dataset", "DeviceLoader", "LoadedData", "load_dataset"]
