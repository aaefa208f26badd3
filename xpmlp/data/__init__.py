"""Data sets: files, pictures and tables become batches on the device."""

from xpmlp.data.dataset import Dataset, LoadedData
from xpmlp.data.datasets import load_dataset
from xpmlp.data.loading import DeviceLoader
from xpmlp.data.scaling import Scaling

__all__ = ["Dataset", "DeviceLoader", "LoadedData", "Scaling", "load_dataset"]
