# What the device says of itself.

# By cudaDeviceAttr: the limits of compute capability 9.0, with 8 multiprocessors and made-up clocks.
_ATTRIBUTES = {
    1: 1024, 2: 1024, 3: 1024, 4: 64, 5: 2**31 - 1, 6: 65535, 7: 65535, 8: 49152, 9: 65536, 10: 32, 11: 2**31 - 1,
    12: 65536, 13: 1000000, 14: 512, 16: 8, 19: 1, 31: 1, 36: 1000000, 37: 256, 38: 1 << 20, 39: 2048, 40: 1, 41: 1,
    51: 32, 75: 9, 76: 0, 78: 1, 81: 233472, 82: 65536, 87: 2, 97: 232448, 99: 1, 106: 32,
}

def _properties(device, total):
    get = _ATTRIBUTES.get
    return {
        "name": b"CUDA on the CPU", "uuid": bytes(15) + bytes([device]), "luid": b"", "luidDeviceNodeMask": 0,
        "totalGlobalMem": total, "sharedMemPerBlock": get(8), "regsPerBlock": get(12), "warpSize": 32,
        "maxThreadsPerBlock": 1024, "maxThreadsDim": (1024, 1024, 64), "maxGridSize": (2**31 - 1, 65535, 65535),
        "clockRate": get(13), "totalConstMem": get(9), "major": 9, "minor": 0, "textureAlignment": get(14),
        "texturePitchAlignment": get(51), "multiProcessorCount": get(16), "kernelExecTimeoutEnabled": 0,
        "integrated": 0, "canMapHostMemory": 1, "computeMode": 0, "concurrentKernels": 1, "ECCEnabled": 0,
        "pciBusID": device, "pciDeviceID": 0, "pciDomainID": 0, "tccDriver": 0, "asyncEngineCount": 1,
        "unifiedAddressing": 1, "memoryClockRate": get(36), "memoryBusWidth": get(37), "l2CacheSize": get(38),
        "maxThreadsPerMultiProcessor": get(39), "streamPrioritiesSupported": 1, "globalL1CacheSupported": 1,
        "localL1CacheSupported": 1, "sharedMemPerMultiprocessor": get(81), "regsPerMultiprocessor": get(82),
        "managedMemory": 0, "isMultiGpuBoard": 0, "multiGpuBoardGroupID": 0, "hostNativeAtomicSupported": 0,
        "singleToDoublePrecisionPerfRatio": get(87), "pageableMemoryAccess": 0, "concurrentManagedAccess": 0,
        "computePreemptionSupported": 0, "canUseHostPointerForRegisteredMem": 0, "cooperativeLaunch": 0,
        "cooperativeMultiDeviceLaunch": 0, "sharedMemPerBlockOptin": get(97), "deviceOverlap": 1, "memPitch": get(11),
        "persistingL2CacheMaxSize": 0, "maxBlocksPerMultiProcessor": get(106), "accessPolicyMaxWindowSize": 0,
        "reservedSharedMemPerBlock": 1024,
    }
