//! A pickle read as a drawing, not as a program: which names it asks Python for, and where in
//! its containers tensors stand, in order.
//!
//! `pytorch-reader` runs no code either, but it takes an unknown name for an opaque object
//! without a word, and loses the order of keys. So each pickle passes here first.
//! Values live in one arena and refer to each other by index: no recursion while reading or
//! dropping, no copies that a hostile memo could multiply.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use super::printable;

/// The longest pickle that is read, in bytes: as in `pytorch-reader`.
const MAX_BYTES: u64 = pytorch_reader::MAX_PICKLE_SIZE;
/// The most values in one pickle. A checkpoint with an optimizer has about 50 for each tensor.
const MAX_VALUES: usize = 2_000_000;
/// The most steps over shared values, which a hostile pickle could nest exponentially.
const MAX_STEPS: usize = 4_000_000;
/// The deepest nesting in which tensors are looked for.
const MAX_DEPTH: usize = 200;

/// Why a pickle is not accepted.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// It asks for a name outside the allow-list.
    Forbidden {
        /// `module.name`.
        asks: String,
        /// Whether the rest of it is a well-formed pickle.
        well_formed: bool,
    },
    /// It is cut short or no pickle at all.
    Malformed(String),
}

type Id = u32;
type Step<T> = Result<T, String>;

/// A value, as far as it matters here.
#[derive(Debug)]
enum Value {
    /// Text, or a number that serves as a key.
    Key(String),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A Python name, as `module.name`.
    Name(String),
    /// What calling a name would make, and the state set on it.
    Object {
        callee: Id,
        state: Option<Id>,
    },
    Other,
}

/// One pickle's values.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

/// Reads one pickle from `reader`, up to and with its STOP.
pub(super) fn scan(reader: &mut impl BufRead) -> Result<Pickle, Fault> {
    let mut machine = Machine {
        input: reader.take(MAX_BYTES),
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        forbidden: None,
    };
    let result = machine.run();
    match (machine.forbidden, result) {
        (Some(asks), result) => Err(Fault::Forbidden { asks, well_formed: result.is_ok() }),
        (None, Ok(root)) => Ok(Pickle { values: machine.values, root }),
        (None, Err(problem)) => Err(Fault::Malformed(problem)),
    }
}

struct Machine<R> {
    input: R,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    forbidden: Option<String>,
}

impl<R: BufRead> Machine<R> {
    fn run(&mut self) -> Step<Id> {
        loop {
            match self.byte()? {
                b'.' => return self.pop(),
                opcode => self.step(opcode)?,
            }
        }
    }

    /// One opcode; see `pickletools` in Python's library.
    fn step(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            0x80 => self.skip(1),
            0x95 => self.skip(8),
            b'I' | b'L' | b'J' | b'K' | b'M' => self.number(opcode),
            b'V' | b'S' | b'T' | b'U' | b'X' | 0x8c | 0x8d => self.string(opcode),
            b'F' | b'G' | b'N' | 0x88..=0x8b | b'B' | b'C' | 0x8e | 0x96 => self.other(opcode),
            b'(' | b')' | b']' | 0x8f | b'}' | b't' | b'l' | 0x91 | 0x85..=0x87 | b'd' => {
                self.container(opcode)
            }
            b'a' | b'e' | 0x90 | b's' | b'u' => self.fill(opcode),
            b'0' | b'1' | b'2' | b'g' | b'h' | b'j' | b'p' | b'q' | b'r' | 0x94 => {
                self.stack_or_memo(opcode)
            }
            b'c' | 0x93 | b'i' | b'o' => self.names(opcode),
            b'R' | 0x81 | 0x92 | b'b' | b'P' | b'Q' => self.object(opcode),
            0x82..=0x84 => Err("it uses Python's extension registry".into()),
            other => Err(format!("0x{other:02x} is no opcode of a pickle")),
        }
    }

    /// A number: of use here only as a key.
    fn number(&mut self, opcode: u8) -> Step<()> {
        let number = match opcode {
            b'J' => i32::from_le_bytes(self.array()?).to_string(),
            b'K' => self.byte()?.to_string(),
            b'M' => u16::from_le_bytes(self.array()?).to_string(),
            _ => self.line()?.trim_end_matches('L').to_string(),
        };
        self.push(Value::Key(number))
    }

    fn string(&mut self, opcode: u8) -> Step<()> {
        let text = match opcode {
            b'V' => self.line()?,
            b'S' => unquoted(&self.line()?).to_string(),
            _ => {
                let length = self.length(opcode)?;
                self.text(length)?
            }
        };
        self.push(Value::Key(text))
    }

    /// A value of no interest: `None`, a truth value, a fraction, a long number, bytes.
    fn other(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b'N' | 0x88 | 0x89 => {}
            b'F' => drop(self.line()?),
            b'G' => self.skip(8)?,
            _ => {
                let length = self.length(opcode)?;
                self.skip(length)?;
            }
        }
        self.push(Value::Other)
    }

    /// A mark, or a container of what stands above it.
    fn container(&mut self, opcode: u8) -> Step<()> {
        let value = match opcode {
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            b')' | b']' | 0x8f => Value::Sequence(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            0x85..=0x87 => {
                let start = self.above_mark(usize::from(opcode - 0x84))?;
                Value::Sequence(self.stack.split_off(start))
            }
            b'd' => Value::Dict(pairs(&self.pop_to_mark()?)?),
            _ => Value::Sequence(self.pop_to_mark()?),
        };
        self.push(value)
    }

    /// Items for a container that is on the stack.
    fn fill(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.insert(&items)
            }
            _ => {
                let items = self.pop_to_mark()?;
                self.extend(&items)
            }
        }
    }

    fn stack_or_memo(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            // A bare mark on top is thrown away like a value.
            b'0' if self.marks.last() == Some(&self.stack.len()) => self.pop_to_mark().map(drop),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.place(top)
            }
            b'g' | b'h' | b'j' => {
                let slot = self.slot(opcode)?;
                let id = self.memo.get(&slot).copied();
                self.place(id.ok_or_else(|| format!("it refers to memo {slot}, never set"))?)
            }
            0x94 => {
                let slot = u32::try_from(self.memo.len()).map_err(|_| "its memo is too large")?;
                self.memoize(slot)
            }
            _ => {
                let slot = self.slot(opcode)?;
                self.memoize(slot)
            }
        }
    }

    /// A name asked for, and in old pickles an object of it at once.
    fn names(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.ask(&module, &name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Key(module), Value::Key(name)) = (self.at(module), self.at(name))
                else {
                    return Err("it computes a name that it asks for".into());
                };
                let (module, name) = (module.clone(), name.clone());
                self.ask(&module, &name)
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let args = self.pop_to_mark()?;
                self.ask(&module, &name)?;
                self.push(Value::Sequence(args))?;
                self.call()
            }
            _ => {
                let mut args = self.pop_to_mark()?;
                if args.is_empty() {
                    return Err("it makes an object of no class".into());
                }
                let class = args.remove(0);
                self.place(class)?;
                self.push(Value::Sequence(args))?;
                self.call()
            }
        }
    }

    fn object(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b'b' => self.build(),
            b'P' => {
                self.line()?;
                self.push(Value::Other)
            }
            b'Q' => {
                self.pop()?;
                self.push(Value::Other)
            }
            0x92 => {
                self.pop()?;
                self.call()
            }
            _ => self.call(),
        }
    }

    /// A name asked for; the first that is not allowed is remembered.
    fn ask(&mut self, module: &str, name: &str) -> Step<()> {
        let full = format!("{module}.{name}");
        if !allowed(module, name) && self.forbidden.is_none() {
            self.forbidden = Some(printable(&full));
        }
        self.push(Value::Name(full))
    }

    /// What calling the name under the top with the top's arguments would make.
    fn call(&mut self) -> Step<()> {
        let (args, callee) = (self.pop()?, self.pop()?);
        let ordered = matches!(self.at(callee), Value::Name(n) if n == "collections.OrderedDict");
        let value = match ordered {
            true => Value::Dict(self.ordered_pairs(args)),
            false => Value::Object { callee, state: None },
        };
        self.push(value)
    }

    /// `OrderedDict([[key, value], ...])`, as Python 2 wrote it.
    fn ordered_pairs(&self, args: Id) -> Vec<(Id, Id)> {
        let Value::Sequence(args) = self.at(args) else { return Vec::new() };
        let Some(Value::Sequence(items)) = args.first().map(|&list| self.at(list)) else {
            return Vec::new();
        };
        let pair = |&item: &Id| match self.at(item) {
            Value::Sequence(pair) if pair.len() == 2 => Some((pair[0], pair[1])),
            _ => None,
        };
        items.iter().filter_map(pair).collect()
    }

    fn build(&mut self) -> Step<()> {
        let (new, target) = (self.pop()?, self.pop()?);
        if let Value::Object { state, .. } = &mut self.values[target as usize] {
            *state = Some(new);
        }
        self.place(target)
    }

    fn extend(&mut self, items: &[Id]) -> Step<()> {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::Sequence(list) => list.extend_from_slice(items),
            Value::Object { .. } => {}
            _ => return Err("it appends to what is no list".into()),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Step<()> {
        let (top, new) = (self.top()?, pairs(items)?);
        match &mut self.values[top as usize] {
            Value::Dict(dict) => dict.extend(new),
            Value::Object { .. } => {}
            _ => return Err("it sets items of what is no dictionary".into()),
        }
        Ok(())
    }

    fn at(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    fn push(&mut self, value: Value) -> Step<()> {
        if self.values.len() >= MAX_VALUES {
            return Err(format!("it holds more than {MAX_VALUES} values"));
        }
        let id = self.values.len() as Id;
        self.values.push(value);
        self.place(id)
    }

    /// Puts a value that exists already on the stack once more.
    fn place(&mut self, id: Id) -> Step<()> {
        if self.stack.len() >= MAX_VALUES {
            return Err(format!("it stacks more than {MAX_VALUES} values"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn memoize(&mut self, slot: u32) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn top(&self) -> Step<Id> {
        let start = self.above_mark(1)?;
        Ok(self.stack[start])
    }

    fn pop(&mut self) -> Step<Id> {
        let start = self.above_mark(1)?;
        Ok(self.stack.remove(start))
    }

    /// Where the last `count` values begin, if so many stand above the innermost mark.
    fn above_mark(&self, count: usize) -> Step<usize> {
        let mark = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= mark);
        start.ok_or_else(|| "it takes a value from an empty stack".into())
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("it goes back to a mark that it never made")?;
        Ok(self.stack.split_off(mark))
    }

    fn slot(&mut self, opcode: u8) -> Step<u32> {
        match opcode {
            b'h' | b'q' => self.byte().map(u32::from),
            b'j' | b'r' => self.array().map(u32::from_le_bytes),
            _ => self.line()?.trim().parse().map_err(|_| "a memo's number is none".into()),
        }
    }

    /// The length in bytes that stands before text or bytes.
    fn length(&mut self, opcode: u8) -> Step<u64> {
        match opcode {
            b'U' | b'C' | 0x8c | 0x8a => self.byte().map(u64::from),
            b'T' | b'X' | b'B' | 0x8b => Ok(u64::from(u32::from_le_bytes(self.array()?))),
            _ => self.array().map(u64::from_le_bytes),
        }
    }

    fn byte(&mut self) -> Step<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|e| ended(&e))?;
        Ok(bytes)
    }

    /// Grows with the bytes that arrive, whatever `length` claims.
    fn text(&mut self, length: u64) -> Step<String> {
        let mut bytes = Vec::new();
        let got = self.input.by_ref().take(length).read_to_end(&mut bytes);
        match got.map_err(|e| ended(&e))? as u64 == length {
            true => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            false => Err(ENDS_EARLY.into()),
        }
    }

    fn skip(&mut self, length: u64) -> Step<()> {
        let mut rest = self.input.by_ref().take(length);
        let skipped = std::io::copy(&mut rest, &mut std::io::sink()).map_err(|e| ended(&e))?;
        if skipped == length { Ok(()) } else { Err(ENDS_EARLY.into()) }
    }

    fn line(&mut self) -> Step<String> {
        let mut bytes = Vec::new();
        self.input.read_until(b'\n', &mut bytes).map_err(|e| ended(&e))?;
        match bytes.pop() {
            Some(b'\n') => {}
            _ => return Err(ENDS_EARLY.into()),
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

const ENDS_EARLY: &str = "its pickle ends early";

fn ended(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ENDS_EARLY.into(),
        _ => error.to_string(),
    }
}

fn pairs(items: &[Id]) -> Step<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    match rest {
        [] => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err("a dictionary has a key without a value".into()),
    }
}

fn unquoted(line: &str) -> &str {
    let inner = |quote| line.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(line)
}

/// Where a tensor stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// The keys and indices on the way to it.
    pub path: Vec<String>,
    /// How many of them lead to the outermost module that was saved whole, if one was.
    pub module: Option<usize>,
}

impl Pickle {
    /// Every tensor's place, in order; `None` where values are shared beyond all reason.
    pub(super) fn tensors(&self) -> Option<Vec<Place>> {
        let mut walk = Walk { pickle: self, at: Place::default(), found: Vec::new(), steps: 0 };
        walk.value(self.root)?;
        Some(walk.found)
    }

    fn at(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    fn key(&self, id: Id) -> Option<&str> {
        match self.at(id) {
            Value::Key(key) => Some(key),
            _ => None,
        }
    }

    fn items(&self, dict: Id) -> &[(Id, Id)] {
        match self.at(dict) {
            Value::Dict(items) => items,
            _ => &[],
        }
    }

    /// A module's parameters, buffers and children, in the order of its `state_dict()`.
    fn module_tables(&self, state: Id) -> impl Iterator<Item = Id> {
        let tables = ["_parameters", "_buffers", "_modules"];
        let table = move |name| {
            let is = |&&(key, _): &&(Id, Id)| self.key(key) == Some(name);
            self.items(state).iter().find(is).map(|&(_, value)| value)
        };
        tables.into_iter().filter_map(table)
    }

    fn is_tensor(&self, callee: Id) -> bool {
        let Value::Name(name) = self.at(callee) else { return false };
        name.starts_with("torch._utils._rebuild_") || name.starts_with("torch._tensor._rebuild_")
    }
}

struct Walk<'a> {
    pickle: &'a Pickle,
    at: Place,
    found: Vec<Place>,
    steps: usize,
}

impl Walk<'_> {
    /// `None` once there were too many steps.
    fn value(&mut self, id: Id) -> Option<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS || self.at.path.len() > MAX_DEPTH {
            return None;
        }
        match self.pickle.at(id) {
            Value::Dict(_) => self.dict(id)?,
            Value::Sequence(items) => {
                for (index, &item) in items.iter().enumerate() {
                    self.below(&index.to_string(), item)?;
                }
            }
            Value::Object { callee, .. } if self.pickle.is_tensor(*callee) => {
                self.steps += self.at.path.iter().map(|key| 1 + key.len() / 16).sum::<usize>();
                self.found.push(self.at.clone());
            }
            Value::Object { state: Some(state), .. } => self.module(*state)?,
            _ => {}
        }
        Some(())
    }

    fn module(&mut self, state: Id) -> Option<()> {
        let outer = self.at.module;
        self.at.module = outer.or(Some(self.at.path.len()));
        let pickle = self.pickle;
        for table in pickle.module_tables(state) {
            self.dict(table)?;
        }
        self.at.module = outer;
        Some(())
    }

    fn dict(&mut self, id: Id) -> Option<()> {
        let pickle = self.pickle;
        for &(key, value) in pickle.items(id) {
            if let Some(key) = pickle.key(key) {
                self.below(key, value)?;
            }
        }
        Some(())
    }

    fn below(&mut self, key: &str, value: Id) -> Option<()> {
        self.at.path.push(key.to_string());
        self.value(value)?;
        self.at.path.pop();
        Some(())
    }
}

/// Whether a name is one that checkpoints of weights have reason to ask for: tensors, plain
/// containers, and the settings that training scripts put beside weights.
fn allowed(module: &str, name: &str) -> bool {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let class = plain && name.as_bytes()[0].is_ascii_uppercase();
    match module {
        "torch._utils" => matches!(
            name,
            "_rebuild_tensor"
                | "_rebuild_tensor_v2"
                | "_rebuild_tensor_v3"
                | "_rebuild_parameter"
                | "_rebuild_parameter_with_state"
        ),
        "torch._tensor" => name == "_rebuild_from_type_v2",
        "torch" => is_torch_name(name) || (plain && name.ends_with("Storage")),
        "torch.cuda" | "torch.storage" => plain && name.ends_with("Storage"),
        "torch.nn.parameter" => matches!(name, "Parameter" | "Buffer"),
        "torch.torch_version" => name == "TorchVersion",
        "collections" => matches!(name, "OrderedDict" | "defaultdict" | "Counter" | "deque"),
        "builtins" | "__builtin__" => matches!(
            name,
            "set"
                | "frozenset"
                | "dict"
                | "list"
                | "tuple"
                | "int"
                | "long"
                | "float"
                | "bool"
                | "complex"
                | "str"
                | "unicode"
                | "bytes"
                | "bytearray"
                | "slice"
                | "object"
        ),
        "copy_reg" | "copyreg" => name == "_reconstructor",
        "_codecs" => name == "encode",
        "numpy" => is_numpy_name(name),
        "numpy.core.multiarray" | "numpy._core.multiarray" => {
            matches!(name, "scalar" | "_reconstruct")
        }
        "numpy.core.numeric" | "numpy._core.numeric" => name == "_frombuffer",
        "numpy.dtypes" => class && name.ends_with("DType"),
        "argparse" => name == "Namespace",
        "types" => name == "SimpleNamespace",
        "pathlib" | "pathlib._local" => class && name.ends_with("Path"),
        "datetime" => matches!(name, "datetime" | "date" | "time" | "timedelta" | "timezone"),
        "decimal" => name == "Decimal",
        "typing" => name == "Any",
        "easydict" => name == "EasyDict",
        "yacs.config" | "fvcore.common.config" => name == "CfgNode",
        // Classes of settings, and of layers in a model that was saved whole: named in the
        // file, never loaded here.
        _ => {
            const FAMILIES: [&str; 5] = [
                "torch.nn.modules.",
                "torchvision.models.",
                "timm.models.",
                "timm.layers.",
                "omegaconf.",
            ];
            class && FAMILIES.iter().any(|family| module.starts_with(family))
        }
    }
}

fn is_torch_name(name: &str) -> bool {
    const NUMBERS: [&str; 7] = ["float", "bfloat", "int", "uint", "complex", "qint", "quint"];
    let eight_bits = name.strip_prefix("float8_e");
    is_number(name, &NUMBERS)
        || eight_bits.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric()))
        || matches!(name, "Size" | "device" | "dtype" | "Tensor")
        || matches!(name, "bool" | "double" | "half" | "long" | "short")
}

/// One of `kinds` and its bits: `float32`.
fn is_number(name: &str, kinds: &[&str]) -> bool {
    let bits = |kind: &&str| name.strip_prefix(kind);
    kinds.iter().filter_map(bits).any(|bits| bits.bytes().all(|b| b.is_ascii_digit()))
}

fn is_numpy_name(name: &str) -> bool {
    is_number(name, &["float", "int", "uint", "complex"])
        || matches!(name, "dtype" | "ndarray" | "bool" | "bool_" | "str_" | "bytes_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_bytes(mut bytes: &[u8]) -> Result<Pickle, Fault> {
        scan(&mut bytes)
    }

    /// The name for which a well-formed pickle is refused.
    fn refused(bytes: &[u8]) -> String {
        match scan_bytes(bytes).unwrap_err() {
            Fault::Forbidden { asks, well_formed: true } => asks,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_way_to_ask_for_a_name_is_seen() {
        // GLOBAL and REDUCE: os.system, as Python on Linux writes it.
        assert_eq!(refused(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R."), "posix.system");
        // GLOBAL alone, never called.
        assert_eq!(refused(b"cos\nsystem\n."), "os.system");
        // STACK_GLOBAL, its text by way of the memo.
        assert_eq!(
            refused(b"\x80\x04\x8c\x02nt\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x02id\x85R."),
            "nt.system"
        );
        // INST and OBJ.
        assert_eq!(refused(b"(S'id'\nios\nsystem\n."), "os.system");
        assert_eq!(refused(b"(cos\npopen\nS'id'\no."), "os.popen");
        // An attribute of an allowed name, by a dotted path.
        assert_eq!(
            refused(b"\x80\x04\x8c\x05torch\x8c\x14serialization.os.dup\x93."),
            "torch.serialization.os.dup"
        );
        // Thrown away afterwards, with a harmless value in its place.
        assert_eq!(refused(b"\x80\x02cbuiltins\neval\n0}."), "builtins.eval");
    }

    #[test]
    fn a_name_that_is_computed_or_registered_is_refused() {
        let computed = b"\x80\x04)\x8c\x06system\x93.";
        let fault = scan_bytes(computed).unwrap_err();
        assert_eq!(fault, Fault::Malformed("it computes a name that it asks for".into()));
        let fault = scan_bytes(b"\x80\x02\x82\x01.").unwrap_err();
        assert_eq!(fault, Fault::Malformed("it uses Python's extension registry".into()));
    }

    #[test]
    fn a_hostile_name_is_printed_harmlessly() {
        let asks = refused(b"cos\x1b[2J\nsystem\n.");
        assert_eq!(asks, "os\u{fffd}[2J.system");
    }

    #[test]
    fn damage_is_named() {
        for (bytes, problem) in [
            (&b""[..], "its pickle ends early"),
            (b"\x80\x02", "its pickle ends early"),
            (b"\x80\x02X\xff\xff\xff\xffab", "its pickle ends early"),
            (b"\x80\x02B\xff\xff\xff\x7fab", "its pickle ends early"),
            (b"R.", "it takes a value from an empty stack"),
            (b"N(0.0", "its pickle ends early"),
            (b"N(a.", "it takes a value from an empty stack"),
            (b"t.", "it goes back to a mark that it never made"),
            (b"h\x07.", "it refers to memo 7, never set"),
            (b"gseven\n.", "a memo's number is none"),
            (b"}(Nu.", "a dictionary has a key without a value"),
            (b"NNa.", "it appends to what is no list"),
            (b"NNNs.", "it sets items of what is no dictionary"),
            (b"(o.", "it makes an object of no class"),
            (b"\xff.", "0xff is no opcode of a pickle"),
        ] {
            let fault = scan_bytes(bytes);
            if bytes == b"N(0.0" {
                assert!(fault.is_ok(), "what follows STOP is not this pickle's");
                continue;
            }
            assert_eq!(fault.unwrap_err(), Fault::Malformed(problem.into()), "{bytes:?}");
        }
    }

    #[test]
    fn too_many_values_are_refused() {
        let fault = scan_bytes(&vec![b'N'; MAX_VALUES + 1]).unwrap_err();
        assert_eq!(fault, Fault::Malformed("it holds more than 2000000 values".into()));
        let mut same = vec![b'N'];
        same.resize(MAX_VALUES + 1, b'2');
        let fault = scan_bytes(&same).unwrap_err();
        assert_eq!(fault, Fault::Malformed("it stacks more than 2000000 values".into()));
    }

    #[test]
    fn lists_that_hold_themselves_or_double_at_each_level_end() {
        // memo 0 = [memo 0]
        let own = scan_bytes(b"]q\x00h\x00a.").unwrap();
        assert!(own.tensors().is_none());
        let mut doubling = b"]q\x00".to_vec();
        for _ in 0..60 {
            doubling.extend(b"0](h\x00h\x00eq\x00");
        }
        doubling.push(b'.');
        assert!(scan_bytes(&doubling).unwrap().tensors().is_none());
    }

    #[test]
    fn what_checkpoints_need_is_allowed() {
        for (module, name) in [
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch", "BFloat16Storage"),
            ("torch.storage", "UntypedStorage"),
            ("torch", "float8_e4m3fn"),
            ("torch", "float32"),
            ("torch", "bool"),
            ("torch", "device"),
            ("torch", "Size"),
            ("collections", "OrderedDict"),
            ("__builtin__", "set"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy", "dtype"),
            ("numpy", "float64"),
            ("numpy.dtypes", "Float64DType"),
            ("_codecs", "encode"),
            ("argparse", "Namespace"),
            ("pathlib", "PosixPath"),
            ("torch.nn.modules.conv", "Conv2d"),
            ("torchvision.models.resnet", "ResNet"),
        ] {
            assert!(allowed(module, name), "{module}.{name}");
        }
    }

    #[test]
    fn what_could_do_harm_is_not_allowed() {
        for (module, name) in [
            ("os", "system"),
            ("builtins", "getattr"),
            ("builtins", "eval"),
            ("builtins", "__import__"),
            ("torch", "load"),
            ("torch", "bool.__class__"),
            ("torch", "os"),
            ("torch", ""),
            ("torch.storage", "_load_from_bytes"),
            ("torch.hub", "load"),
            ("torch.nn.modules.module", "os"),
            ("torch.nn.modules.module", "Module.load_state_dict"),
            ("numpy", "load"),
            ("numpy", "intp.__class__"),
            ("functools", "partial"),
            ("operator", "attrgetter"),
            ("torchvision.modelsx", "ResNet"),
            ("", ""),
        ] {
            assert!(!allowed(module, name), "{module}.{name}");
        }
    }
}
