//! Carries out statements.
//!
//! Scopes are Jinja's: a loop's pass, a macro, `with` and a block have their own, `if` has none. A
//! macro holds its scope weakly, so that no scope holds itself. Not here: expressions (`eval`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::ast::{Body, For, Macro, Node, Post, Stmt, Target};
use super::functions::Function;
use super::meter::{Claim, Draft, Meter, Result};
use super::value::{Callable, Loop, Value};
use super::{Fault, Host, Input, Limits, filters, print};

/// Bytes that a variable takes, beside its value.
const VARIABLE: usize = 96;

/// Attributes of a namespace.
pub(super) type Entries = Vec<(Arc<str>, Value)>;

/// The variables of a scope.
#[derive(Debug)]
pub(super) struct Frame {
    variables: RefCell<HashMap<Arc<str>, Value>>,
    parent: Option<Rc<Frame>>,
    claim: Claim,
}

/// One rendering.
pub(super) struct Run<'a> {
    pub(super) meter: Meter<'a>,
    pub(super) host: &'a Host<'a>,
    /// Entries of each namespace.
    pub(super) namespaces: RefCell<Vec<Entries>>,
    namespaces_claim: Claim,
}

/// How a statement ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Break,
    Continue,
}

/// Renders a template.
pub(super) fn render(
    body: &Body,
    variables: &[(&str, Input)],
    limits: Limits,
    host: &Host<'_>,
) -> Result<String> {
    let meter = Meter::new(limits, host.stop);
    let namespaces_claim = meter.claim();
    let run = Run { meter, host, namespaces: RefCell::default(), namespaces_claim };
    let globals = run.frame(None);
    for function in Function::ALL {
        let callable = Value::Callable(Rc::new(Callable::Function(function)));
        run.set(&globals, &function.name().into(), callable)?;
    }
    for (name, input) in variables {
        let value = run.value_of(input)?;
        run.set(&globals, &(*name).into(), value)?;
    }
    let frame = run.frame(Some(&globals));
    let mut out = run.meter.output();
    run.exec(body, &frame, &mut out)?;
    Ok(out.into_string())
}

impl Run<'_> {
    fn value_of(&self, input: &Input) -> Result<Value> {
        self.meter.work(1)?;
        match input {
            Input::None => Ok(Value::None),
            Input::Bool(value) => Ok(Value::Bool(*value)),
            Input::Int(value) => Ok(Value::Int(*value)),
            Input::Float(value) => Ok(Value::Float(*value)),
            Input::Text(text) => self.meter.text(text.as_str()),
            Input::List(items) => {
                let _level = self.meter.enter()?;
                let items = items.iter().map(|item| self.value_of(item));
                self.meter.list(items.collect::<Result<_>>()?)
            }
            Input::Dict(entries) => {
                let _level = self.meter.enter()?;
                let entries = entries.iter().map(|(key, value)| {
                    Ok((self.meter.text(key.as_str())?, self.value_of(value)?))
                });
                self.meter.dict(entries.collect::<Result<_>>()?)
            }
        }
    }

    pub(super) fn frame(&self, parent: Option<&Rc<Frame>>) -> Rc<Frame> {
        let variables = RefCell::default();
        Rc::new(Frame { variables, parent: parent.cloned(), claim: self.meter.claim() })
    }

    /// Sets a variable in the innermost scope.
    pub(super) fn set(&self, frame: &Rc<Frame>, name: &Arc<str>, value: Value) -> Result {
        self.meter.work(1)?;
        let mut variables = frame.variables.borrow_mut();
        if let Some(known) = variables.get_mut(name) {
            // The old value is dropped here, so that the memory is free for the next.
            *known = value;
            return Ok(());
        }
        frame.claim.grow(VARIABLE)?;
        variables.insert(Arc::clone(name), value);
        Ok(())
    }

    /// A variable, from the innermost scope that has it.
    pub(super) fn get(&self, frame: &Rc<Frame>, name: &str) -> Result<Option<Value>> {
        let mut frame = Some(frame);
        while let Some(here) = frame {
            self.meter.work(1)?;
            if let Some(value) = here.variables.borrow().get(name) {
                return Ok(Some(value.clone()));
            }
            frame = here.parent.as_ref();
        }
        Ok(None)
    }

    /// A new namespace with these entries.
    pub(super) fn namespace(&self, entries: Entries) -> Result<Value> {
        self.namespaces_claim.grow(VARIABLE * (1 + entries.len()))?;
        let mut namespaces = self.namespaces.borrow_mut();
        namespaces.push(entries);
        Ok(Value::Namespace(namespaces.len() - 1))
    }

    /// Carries out statements.
    pub(super) fn exec(&self, body: &Body, frame: &Rc<Frame>, out: &mut Draft<'_>) -> Result<Flow> {
        let _level = self.meter.enter()?;
        for Node { line, kind } in body {
            self.meter.work(1)?;
            let flow = self.statement(kind, frame, out).map_err(|fault| fault.on_line(*line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn statement(&self, kind: &Stmt, frame: &Rc<Frame>, out: &mut Draft<'_>) -> Result<Flow> {
        match kind {
            Stmt::Text(text) => out.push(text)?,
            Stmt::Print(value) => {
                let value = self.eval(value, frame)?;
                print::text(self, &value, out)?;
            }
            Stmt::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.eval(condition, frame)?.truth() {
                        return self.exec(body, frame, out);
                    }
                }
                return self.exec(otherwise, frame, out);
            }
            Stmt::For(of) => {
                let items = self.eval(&of.items, frame)?;
                self.for_loop(of, items, frame, 0, out)?;
            }
            Stmt::Set(target, value) => {
                let value = self.eval(value, frame)?;
                self.assign(target, value, frame)?;
            }
            Stmt::SetBlock(target, filters, body) => {
                let inner = self.frame(Some(frame));
                let text = self.captured(body, &inner, filters)?;
                self.assign(target, text, frame)?;
            }
            Stmt::Macro(of) => {
                let made = Callable::Macro(Arc::clone(of), Rc::downgrade(frame));
                self.set(frame, &of.name, Value::Callable(Rc::new(made)))?;
            }
            Stmt::Call(call, caller) => {
                let inner = self.frame(Some(frame));
                let made = Callable::Macro(Arc::clone(caller), Rc::downgrade(&inner));
                let made = Value::Callable(Rc::new(made));
                let value = self.eval_with_caller(call, &inner, made)?;
                print::text(self, &value, out)?;
            }
            Stmt::Filter(filters, body) => {
                let text = self.captured(body, &self.frame(Some(frame)), filters)?;
                print::text(self, &text, out)?;
            }
            Stmt::With(sets, body) => {
                let inner = self.frame(Some(frame));
                for (target, value) in sets {
                    // Values are of the outer scope.
                    let value = self.eval(value, frame)?;
                    self.assign(target, value, &inner)?;
                }
                return self.exec(body, &inner, out);
            }
            Stmt::Inner(body, true) => return self.exec(body, &self.frame(Some(frame)), out),
            Stmt::Inner(body, false) => return self.exec(body, frame, out),
            Stmt::Break => return Ok(Flow::Break),
            Stmt::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    /// The text that the body writes, through the filters.
    fn captured(&self, body: &Body, frame: &Rc<Frame>, filters: &[Post]) -> Result<Value> {
        let mut draft = self.meter.draft();
        self.exec(body, frame, &mut draft)?;
        let mut text = draft.into_value()?;
        for filter in filters {
            if let Post::Filter(name, args) = filter {
                let args = self.args(args, frame)?;
                text = filters::apply(self, name, text, args)?;
            }
        }
        Ok(text)
    }

    fn assign(&self, target: &Target, value: Value, frame: &Rc<Frame>) -> Result {
        match target {
            Target::Name(name) => self.set(frame, name, value),
            Target::Attribute(name, attribute) => {
                let Some(Value::Namespace(number)) = self.get(frame, name)? else {
                    return fault!("'{name}' is no namespace: its attributes cannot be set");
                };
                let mut namespaces = self.namespaces.borrow_mut();
                let entries = &mut namespaces[number];
                self.meter.work(1 + entries.len() / 4)?;
                match entries.iter_mut().find(|(known, _)| known == attribute) {
                    Some((_, old)) => *old = value,
                    None => {
                        self.namespaces_claim.grow(VARIABLE)?;
                        entries.push((Arc::clone(attribute), value));
                    }
                }
                Ok(())
            }
            Target::Tuple(targets) => {
                let items = self.items(&value)?;
                if items.len() != targets.len() {
                    let (wanted, found) = (targets.len(), items.len());
                    return fault!("{wanted} values are expected, there are {found}");
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, frame)?;
                }
                Ok(())
            }
        }
    }

    /// Goes through `items`.
    pub(super) fn for_loop(
        &self,
        of: &Arc<For>,
        items: Value,
        frame: &Rc<Frame>,
        depth: usize,
        out: &mut Draft<'_>,
    ) -> Result {
        let _level = self.meter.enter()?;
        let mut items = self.items(&items)?;
        if let Some(condition) = &of.condition {
            let mut kept = Vec::new();
            for item in items {
                let inner = self.frame(Some(frame));
                self.assign(&of.target, item.clone(), &inner)?;
                if self.eval(condition, &inner)?.truth() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            self.exec(&of.otherwise, &self.frame(Some(frame)), out)?;
            return Ok(());
        }
        let looped = Rc::new(Loop {
            items: self.meter.list(items)?,
            index: Cell::new(0),
            depth,
            last: RefCell::default(),
            recursive: of.recursive.then(|| (Arc::clone(of), Rc::downgrade(frame))),
        });
        let name: Arc<str> = "loop".into();
        for (index, item) in looped.items().iter().enumerate() {
            looped.index.set(index);
            let inner = self.frame(Some(frame));
            self.set(&inner, &name, Value::Loop(Rc::clone(&looped)))?;
            self.assign(&of.target, item.clone(), &inner)?;
            if self.exec(&of.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    /// Calls a macro.
    pub(super) fn call_macro(
        &self,
        of: &Macro,
        scope: &Weak<Frame>,
        mut args: super::eval::Given,
        caller: Option<Value>,
    ) -> Result<Value> {
        let _level = self.meter.enter()?;
        let Some(scope) = scope.upgrade() else {
            return fault!("macro '{}' is called outside of where it is known", of.name);
        };
        let frame = self.frame(Some(&scope));
        let mut positional = std::mem::take(&mut args.positional).into_iter();
        for (name, default) in &of.parameters {
            let value = match positional.next().or_else(|| args.take_named(name)) {
                Some(value) => value,
                None => match default {
                    Some(default) => {
                        self.eval(default, &frame).map_err(|fault| fault.on_line(of.line))?
                    }
                    None => Value::undefined(format!("parameter '{name}' was not provided")),
                },
            };
            self.set(&frame, name, value)?;
        }
        let caller = caller.or_else(|| args.take_named("caller"));
        if let Some(caller) = caller {
            self.set(&frame, &"caller".into(), caller)?;
        }
        let names: Vec<_> = (args.named.into_iter())
            .map(|(name, value)| Ok((self.meter.text(&*name)?, value)))
            .collect::<Result<_>>()?;
        self.set(&frame, &"varargs".into(), self.meter.tuple(positional.collect())?)?;
        self.set(&frame, &"kwargs".into(), self.meter.dict(names)?)?;
        let mut draft = self.meter.draft();
        self.exec(&of.body, &frame, &mut draft)?;
        draft.into_value()
    }

    /// Calls a recursive loop with other items.
    pub(super) fn recurse(&self, of: &Loop, items: Value) -> Result<Value> {
        let scope = of.recursive.as_ref().map(|(node, scope)| (node, scope.upgrade()));
        let Some((node, Some(scope))) = scope else {
            return fault!("the loop does not say 'recursive'");
        };
        let mut draft = self.meter.draft();
        self.for_loop(node, items, &scope, of.depth + 1, &mut draft)?;
        draft.into_value()
    }
}

impl Fault {
    /// An error that says what is missing.
    pub(super) fn undefined(what: &str) -> Fault {
        Fault::Error(what.into())
    }
}
