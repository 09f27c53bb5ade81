//! The pickle inside a PyTorch archive: tensors and containers; anything else is passed over, and
//! nothing is executed.
//!
//! `object` has the objects that a pickle may hold, `machine` runs the opcodes that `torch.save`
//! writes (protocols 2 to 5), `torch` knows the few names that may be called. Not here: the zip
//! archive (`torch_zip`). Bounds: [`PICKLE_MAX`] bytes, `NODES_MAX` objects; every opcode adds at
//! most one object, copies nothing, and no step recurses, so that a hostile file costs memory in
//! proportion to its length. Sources: CPython Lib/pickletools.py; torch/_weights_only_unpickler.py.
//! Test: at the end of this file, and `torch_zip`.

mod machine;
mod object;
mod torch;

use self::machine::Machine;
pub(super) use self::object::{Id, Node, Pickle, Refusal, Tensor};

/// The longest pickle that is read. Those of the largest RWKV models take a quarter of a megabyte.
pub(super) const PICKLE_MAX: u64 = 16 << 20;

impl Pickle {
    /// Runs the pickle `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        Machine::new(bytes).run()
    }
}

#[cfg(test)]
mod tests {
    use super::object::NODES_MAX;
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        Pickle::parse(bytes).unwrap_err().found
    }

    #[test]
    fn containers_and_numbers() {
        // {"a": (1, -2, 2**40), "b": [None, True, 1.5]}
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01J\xfe\xff\xff\xff\
                      \x8a\x06\x00\x00\x00\x00\x00\x01\x87\
                      X\x01\x00\x00\x00b](N\x88G?\xf8\x00\x00\x00\x00\x00\x00eu.";
        let pickle = Pickle::parse(bytes).unwrap();
        let Node::Dict(items) = pickle.root() else { panic!("{pickle:?}") };
        let Node::Tuple(numbers) = pickle.node(items[0].1) else { panic!("{pickle:?}") };
        let numbers: Vec<_> = numbers.iter().map(|&id| format!("{:?}", pickle.node(id))).collect();
        assert_eq!(numbers, ["Int(1)", "Int(-2)", "Int(1099511627776)"]);
        assert!(matches!(pickle.node(items[1].1), Node::List(list) if list.len() == 3));
    }

    #[test]
    fn nothing_is_called() {
        assert_eq!(refused(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."), "os.system");
        assert_eq!(refused(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), "builtins.eval");
        assert_eq!(refused(b"\x80\x02c__builtin__\neval\n."), "__builtin__.eval");
        assert_eq!(refused(b"\x80\x02csubprocess\nPopen\n."), "subprocess.Popen");
        assert_eq!(refused(b"\x80\x02ctorch\nload\n."), "torch.load");
        assert_eq!(refused(b"\x80\x02(iposix\nsystem\n."), "opcode 0x69");
        assert_eq!(refused(b"\x80\x02\x82\x01."), "opcode 0x82");
    }

    /// A Namespace with attributes, a function of numpy, a device, a set, a number of nine bytes.
    #[test]
    fn objects_are_passed_over() {
        let bytes = b"\x80\x04}(\x8c\x01acargparse\nNamespace\n)\x81}\x8c\x01xK\x01sb\
                      \x8c\x01bcnumpy.core.multiarray\nscalar\nN\x85R\
                      \x8c\x01cctorch\ndevice\n\x8c\x03cpu\x85R\
                      \x8c\x01d\x8f(K\x01\x90\
                      \x8c\x01e\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01\
                      \x8c\x01fcx\nY\n)}\x92K\x02a\
                      \x8c\x01gK\x07u.";
        let pickle = Pickle::parse(bytes).unwrap();
        let Node::Dict(items) = pickle.root() else { panic!("{pickle:?}") };
        assert_eq!(items.len(), 7);
        assert!(matches!(pickle.node(items[6].1), Node::Int(7)));
        assert!(matches!(pickle.node(items[0].1), Node::Dict(none) if none.is_empty()));
        assert_eq!(pickle.end, bytes.len());
    }

    #[test]
    fn broken_stacks_and_ends() {
        for bytes in [
            &b""[..],
            b"\x80",
            b"\x80\x02",
            b"\x80\x02.",
            b"\x80\x02t.",
            b"\x80\x02N(\x85.",
            b"\x80\x02h\x05.",
            b"\x80\x02X\xff\xff\xff\xffa.",
            b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
            b"\x80\x02NNs.",
            b"\x80\x02K\x01(NNu.",
            b"\x80\x02}(Nu.",
            b"\x80\x02NQ.",
            b"\x80\x02)R.",
            b"\x80\x02ccollections\nOrderedDict\nN\x85R.",
            b"\x80\x02\x8b\xff\xff\xff\xff\x00.",
            b"\x80\x09N.",
            b"\x80\x02ccollections",
        ] {
            Pickle::parse(bytes).unwrap_err();
        }
    }

    #[test]
    fn a_flood_of_objects_is_refused() {
        let flood = [&[0x80, 2][..], &vec![b'}'; NODES_MAX + 1]].concat();
        assert!(refused(&flood).contains("more than"));
        for opcodes in [b"(", b"2", b"\x94"] {
            let flood = [&[0x80, 2, b'N'][..], &opcodes.repeat(NODES_MAX + 1), b"."].concat();
            let _ = Pickle::parse(&flood);
        }
    }
}
