//! What the scenarios of the control plane count as a message's bytes is what its encoding has.

use proptest::prelude::*;
use prost::Message;
use softstore_proto::v1;
use softstore_sim::scenario::wire;

use crate::values;

fn length(message: &impl Message) -> u64 {
    message.encoded_len() as u64
}

proptest! {
    #[test]
    fn node_messages_are_counted_as_they_are_encoded(said in values::node_message()) {
        prop_assert_eq!(wire::node_message_bytes(&said), length(&v1::NodeMessage::from(&said)));
    }

    #[test]
    fn assigner_messages_are_counted_as_they_are_encoded(said in values::assigner_message()) {
        prop_assert_eq!(wire::assigner_message_bytes(&said), length(&v1::AssignerMessage::from(&said)));
    }
}
