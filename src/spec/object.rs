//! Issuer objects as plain data: `ClusterIssuer` and `Issuer` of `certmount.dev/v1alpha1`.
