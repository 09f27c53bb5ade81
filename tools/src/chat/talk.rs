//! A conversation as a tree: every message knows the one before it, branches are names of ends.
//!
//! Nothing that was said is lost: what is undone, tried again or edited keeps its place, and can be
//! reached by its number. Not here: what the model has read of it (`marks`), and the file that it
//! is saved in (`saved`). Test: below, and `tests/cli/chat_commands.rs`.

use brooklet::chat::{Message, Role};
use serde::{Deserialize, Serialize};

/// The first branch.
const MAIN: &str = "main";

/// Characters of a branch's name at most.
const MAX_NAME: usize = 40;

/// A message in its place.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Node {
    /// The message before it.
    parent: Option<usize>,
    #[serde(flatten)]
    message: Message,
}

/// A name for where a conversation goes on.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Branch {
    name: String,
    /// Its last message; none before the first.
    tip: Option<usize>,
}

/// All that was said, and where it goes on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Talk {
    nodes: Vec<Node>,
    branches: Vec<Branch>,
    /// The branch in use.
    branch: usize,
}

impl Talk {
    /// A conversation of so many messages.
    pub(crate) fn new(messages: impl IntoIterator<Item = Message>) -> Talk {
        let branch = Branch { name: MAIN.to_owned(), tip: None };
        let mut talk = Talk { nodes: Vec::new(), branches: vec![branch], branch: 0 };
        messages.into_iter().for_each(|message| talk.push(message));
        talk
    }

    /// Whether every number in it leads somewhere; files may say anything.
    pub(crate) fn is_sound(&self) -> bool {
        let n = self.nodes.len();
        let mut nodes = self.nodes.iter().enumerate();
        let names = self.branches.iter().enumerate();
        nodes.all(|(i, node)| node.parent.is_none_or(|parent| parent < i))
            && self.branches.iter().all(|branch| branch.tip.is_none_or(|tip| tip < n))
            && self.branch < self.branches.len()
            && names.into_iter().all(|(i, branch)| self.find(&branch.name) == Some(i))
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.branches.iter().position(|branch| branch.name == name)
    }

    /// The last message's number.
    pub(crate) fn tip(&self) -> Option<usize> {
        self.branches[self.branch].tip
    }

    /// Goes on behind the message `tip`, or before the first.
    pub(crate) fn set_tip(&mut self, tip: Option<usize>) {
        self.branches[self.branch].tip = tip;
    }

    /// The name of the branch in use.
    pub(crate) fn branch(&self) -> &str {
        &self.branches[self.branch].name
    }

    /// Says something.
    pub(crate) fn push(&mut self, message: Message) {
        self.nodes.push(Node { parent: self.tip(), message });
        self.set_tip(Some(self.nodes.len() - 1));
    }

    /// The numbers of the messages up to the tip, the first one first.
    fn path(&self) -> Vec<usize> {
        let mut path: Vec<usize> =
            std::iter::successors(self.tip(), |&at| self.nodes[at].parent).collect();
        path.reverse();
        path
    }

    /// The messages up to the tip.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.path().into_iter().map(|at| self.nodes[at].message.clone()).collect()
    }

    /// The last message, if `role` said it.
    pub(crate) fn last(&self, role: Role) -> Option<&Message> {
        let message = &self.nodes[self.tip()?].message;
        (message.role == role).then_some(message)
    }

    /// The last message of the person, and what stands before it.
    pub(crate) fn last_question(&self) -> Option<(Option<usize>, &str)> {
        let path = self.path();
        let at = path.iter().rev().find(|at| self.nodes[**at].message.role == Role::User)?;
        let Node { parent, message } = &self.nodes[*at];
        Some((*parent, &message.content))
    }

    /// Goes back to behind the last message of the person, to answer it again; false where there is
    /// none.
    pub(crate) fn unanswer(&mut self) -> bool {
        while self.last(Role::User).is_none() {
            let Some(at) = self.tip() else { return false };
            self.set_tip(self.nodes[at].parent);
        }
        true
    }

    /// The instructions at the beginning.
    pub(crate) fn system(&self) -> Option<&str> {
        let first = &self.nodes[*self.path().first()?].message;
        (first.role == Role::System).then_some(&first.content)
    }

    /// Gives other instructions, or none: what was said on this branch is said behind them.
    pub(crate) fn set_system(&mut self, system: Option<String>) {
        let said = self.messages().into_iter();
        let said: Vec<Message> = said.filter(|message| message.role != Role::System).collect();
        self.set_tip(None);
        let system = system.map(|system| Message::new(Role::System, system));
        system.into_iter().chain(said).for_each(|message| self.push(message));
    }

    /// Back to before the first message of the person.
    pub(crate) fn reset(&mut self) {
        let first = self.path().first().copied();
        self.set_tip(first.filter(|at| self.nodes[*at].message.role == Role::System));
    }

    /// A new branch that begins here, and goes on there.
    pub(crate) fn fork(&mut self, name: &str) -> Result<(), String> {
        if name.contains(char::is_whitespace) || name.chars().count() > MAX_NAME {
            return Err(format!("the name must be one word of at most {MAX_NAME} characters"));
        }
        if name.parse::<usize>().is_ok() {
            return Err("a number is no name: messages have numbers".to_owned());
        }
        if self.find(name).is_some() {
            return Err(format!("there is a branch {name:?} already: /switch {name}"));
        }
        self.branches.push(Branch { name: name.to_owned(), tip: self.tip() });
        self.branch = self.branches.len() - 1;
        Ok(())
    }

    /// Goes on in the branch of that name, or in this one behind the message of that number.
    pub(crate) fn switch(&mut self, name: &str) -> Result<(), String> {
        if let Some(branch) = self.find(name) {
            self.branch = branch;
            return Ok(());
        }
        match name.parse::<usize>() {
            Ok(number) if (1..=self.nodes.len()).contains(&number) => {
                self.set_tip(Some(number - 1));
                Ok(())
            }
            Ok(number) => Err(format!("there is no message {number}: /tree shows them")),
            Err(_) => Err(format!("there is no branch {name:?}: /tree shows them")),
        }
    }

    /// The tree in lines: a message, what answers it further in; the branches that end there.
    pub(crate) fn lines(&self, width: usize) -> Vec<String> {
        let mut children = vec![Vec::new(); self.nodes.len() + 1];
        for (i, node) in self.nodes.iter().enumerate() {
            children[node.parent.map_or(0, |parent| parent + 1)].push(i);
        }
        let mut lines = Vec::new();
        let mut open: Vec<(usize, usize)> = children[0].iter().rev().map(|&i| (i, 0)).collect();
        if let Some(names) = self.names(None) {
            lines.push(format!("(empty){names}"));
        }
        while let Some((i, depth)) = open.pop() {
            let Node { message, .. } = &self.nodes[i];
            let names = self.names(Some(i)).unwrap_or_default();
            let start = format!("{}{} {}: ", "  ".repeat(depth), i + 1, message.role.name());
            let used = start.chars().count() + names.chars().count();
            let words = clip(&message.content, width.saturating_sub(used).max(12));
            lines.push(format!("{start}{words}{names}"));
            // A message alone goes on at the same depth: only where ways part, they step in.
            let deeper = usize::from(children[i + 1].len() > 1);
            open.extend(children[i + 1].iter().rev().map(|&child| (child, depth + deeper)));
        }
        lines
    }

    /// The branches that end at a message, the one in use with a star.
    fn names(&self, tip: Option<usize>) -> Option<String> {
        let here = self.branches.iter().enumerate().filter(|(_, branch)| branch.tip == tip);
        let name = |(i, branch): (usize, &Branch)| {
            format!("{}{}", branch.name, if i == self.branch { "*" } else { "" })
        };
        let names: Vec<String> = here.map(name).collect();
        (!names.is_empty()).then(|| format!(" [{}]", names.join(" ")))
    }
}

/// The beginning of a text, on one line.
fn clip(text: &str, width: usize) -> String {
    use unicode_width::UnicodeWidthChar;

    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut clipped, mut used) = (String::new(), 0);
    for c in line.chars() {
        used += c.width().unwrap_or(0);
        if used > width.saturating_sub(1) {
            clipped.push('…');
            break;
        }
        clipped.push(c);
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(talk: &Talk) -> Vec<String> {
        talk.messages().into_iter().map(|message| message.content).collect()
    }

    fn ask(talk: &mut Talk, question: &str, answer: &str) {
        talk.push(Message::new(Role::User, question));
        talk.push(Message::new(Role::Assistant, answer));
    }

    #[test]
    fn branches_part_and_nothing_is_lost() {
        let mut talk = Talk::new([Message::new(Role::System, "s")]);
        ask(&mut talk, "a", "A");
        talk.fork("other").unwrap();
        ask(&mut talk, "b", "B");
        talk.switch("main").unwrap();
        ask(&mut talk, "c", "C");
        assert_eq!(said(&talk), ["s", "a", "A", "c", "C"]);
        assert!(talk.unanswer());
        assert_eq!(said(&talk), ["s", "a", "A", "c"]);
        talk.push(Message::new(Role::Assistant, "D"));
        let tree = ["1 system: s", "2 user: a", "3 assistant: A", "  4 user: b"];
        let parts = ["  5 assistant: B [other]", "  6 user: c", "    7 assistant: C"];
        let tree = [&tree[..], &parts, &["    8 assistant: D [main*]"]].concat();
        assert_eq!(talk.lines(40), tree);
        talk.switch("5").unwrap();
        assert_eq!((said(&talk).join(""), talk.branch()), ("saAbB".to_owned(), "main"));
        talk.set_system(Some("t".to_owned()));
        assert_eq!((said(&talk).join(""), talk.system()), ("taAbB".to_owned(), Some("t")));
        talk.reset();
        assert_eq!(said(&talk), ["t"]);
        assert!(!talk.unanswer() && talk.last_question().is_none());
        for (name, why) in [
            ("main", "already"),
            ("12", "a number"),
            ("two words", "one word"),
            (&"x".repeat(41), "at most 40"),
        ] {
            assert!(talk.fork(name).unwrap_err().contains(why), "{name}");
        }
        assert!(talk.switch("nowhere").is_err() && talk.switch("0").is_err());
        assert!(talk.switch("99").is_err());
    }

    #[test]
    fn hostile_trees_are_told_from_sound_ones() {
        let mut talk = Talk::new([]);
        ask(&mut talk, "a", "A");
        assert!(talk.is_sound());
        let broken = |change: fn(&mut Talk)| {
            let mut talk = talk.clone();
            change(&mut talk);
            !talk.is_sound()
        };
        assert!(broken(|talk| talk.nodes[1].parent = Some(1)));
        assert!(broken(|talk| talk.branches[0].tip = Some(2)));
        assert!(broken(|talk| talk.branch = 1));
        assert!(broken(|talk| talk.branches.push(talk.branches[0].clone())));
        assert_eq!(clip("wide 漢字 text", 8), "wide 漢…");
    }
}
