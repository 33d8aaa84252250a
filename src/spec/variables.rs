//! Variables such as `${POD_NAME}` in attribute values.
