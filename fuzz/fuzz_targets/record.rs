//! What an earlier process, or a crash of it, left in a volume.

#![no_main]

use certmount::spec::request::NodeContext;
use certmount::volume::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::from_json(data) {
        let node = NodeContext {
            driver_name: "csi.certmount.dev".to_owned(),
            node_name: "node1".to_owned(),
        };
        let _ = record.request(&node);
    }
});
