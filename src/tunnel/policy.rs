//! Pure: may this host, this address, this port be reached?
