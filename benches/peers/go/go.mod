module udsipc-bench-peer

// The library itself is added by run.py, which pins its commit (GO_COMMIT), to a copy of this folder in the build folder.
go 1.24.0
