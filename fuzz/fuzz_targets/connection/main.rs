//! A reader or a writer with real connections to a peer that does whatever the input says.
#![no_main]

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;

mod reader;
mod writer;

#[derive(Debug)]
enum Scenario {
    Reader(reader::Scenario),
    Writer(writer::Scenario),
}

/// An input whose first byte is this, or above, is one for the writer.
const FOR_THE_WRITER: u8 = 0xf0;

impl<'a> Arbitrary<'a> for Scenario {
    fn arbitrary(from: &mut Unstructured<'a>) -> Result<Scenario> {
        let first = u8::arbitrary(from)?;
        if first >= FOR_THE_WRITER {
            return writer::Scenario::arbitrary(from).map(Scenario::Writer);
        }
        reader::Scenario::arbitrary(first, from).map(Scenario::Reader)
    }
}

fuzz_target!(init: support::prepare(), |scenario: Scenario| match scenario {
    Scenario::Reader(scenario) => scenario.run(),
    Scenario::Writer(scenario) => scenario.run(),
});
