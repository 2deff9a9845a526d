"""SparseFormer with mmaction2; the only place that imports it."""
