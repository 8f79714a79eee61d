module udsipc.test/peer

go 1.24
