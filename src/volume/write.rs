//! The atomic writer: readers that open `..data` once see files of one write only.
