//! The volume attributes: one table of all of them, and their parser.
