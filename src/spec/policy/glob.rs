//! Text with stars and variables, which the patterns of [`super::pattern`] are made of.
//!
//! `*` stands for a run of harmless characters that never crosses a separator,
//! `{variable}` for a fact about the pod or the cluster, `{*}` for a literal star, `{{` and `}}`
//! for literal braces. What a variable stands for is compared letter by letter, and never matches
//! if a pod's author has put a character into it that a star would not take there.

use std::net::IpAddr;

/// What the variables of a pattern stand for in one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    /// For names that are addresses; no pattern says it.
    pub(super) pod_ip: Option<IpAddr>,
    pub(super) service_account: &'a str,
    pub(super) node: &'a str,
    pub(super) cluster_domain: &'a str,
    pub(super) trust_domain: &'a str,
}

/// A pattern that cannot be read; the message says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct PatternError(pub(super) String);

/// Text with stars and variables.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Glob(Vec<Piece>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Piece {
    Literal(String),
    Star,
    Variable(Variable),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Variable {
    ClusterDomain,
    Namespace,
    Node,
    Pod,
    ServiceAccount,
    TrustDomain,
}

const VARIABLES: [(&str, Variable); 6] = [
    ("clusterDomain", Variable::ClusterDomain),
    ("namespace", Variable::Namespace),
    ("node", Variable::Node),
    ("pod", Variable::Pod),
    ("serviceAccount", Variable::ServiceAccount),
    ("trustDomain", Variable::TrustDomain),
];

impl Glob {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let escaped =
                ESCAPES.iter().find_map(|(escape, c)| Some((rest.strip_prefix(escape)?, *c)));
            if let Some((after, c)) = escaped {
                push_literal(&mut pieces, c);
                rest = after;
                continue;
            }
            let after = &rest[c.len_utf8()..];
            rest = after;
            match c {
                '*' => pieces.push(Piece::Star),
                '{' => {
                    let (name, after) = after.split_once('}').ok_or_else(|| {
                        PatternError(format!("pattern {text:?} has a {{ without its }}"))
                    })?;
                    pieces.push(Piece::Variable(Variable::parse(name)?));
                    rest = after;
                }
                '}' => {
                    return Err(PatternError(format!("pattern {text:?} has a }} without its {{")));
                }
                c => push_literal(&mut pieces, c),
            }
        }
        Ok(Self(pieces))
    }

    pub(super) fn literal(text: &str) -> Self {
        Self(vec![Piece::Literal(text.to_owned())])
    }

    /// Whether `text` has this form, where a star takes only characters that are `harmless`.
    pub(super) fn matches(
        &self,
        text: &str,
        facts: &Facts<'_>,
        harmless: impl Fn(char) -> bool,
    ) -> bool {
        // `None` is a star.
        let mut wanted: Vec<Option<char>> = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => wanted.extend(literal.chars().map(Some)),
                Piece::Star => wanted.push(None),
                Piece::Variable(variable) => {
                    let value = variable.of(facts);
                    // An unknown fact is no licence for the empty text, nor a pod's name for text
                    // that no star would take.
                    let harmless = variable.is_of_cluster() || value.chars().all(&harmless);
                    if value.is_empty() || !harmless {
                        return false;
                    }
                    wanted.extend(value.chars().map(Some));
                }
            }
        }
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut next) = (0, 0);
        // Behind the last star met, and how far it reaches.
        let mut star: Option<(usize, usize)> = None;
        while at < text.len() {
            match wanted.get(next) {
                Some(None) => {
                    next += 1;
                    star = Some((next, at));
                }
                Some(Some(c)) if *c == text[at] => {
                    next += 1;
                    at += 1;
                }
                _ => {
                    // Let the star take one character more. All stars take the same characters,
                    // so that only the last one needs to be tried.
                    let Some((behind, reach)) = star.filter(|(_, reach)| harmless(text[*reach]))
                    else {
                        return false;
                    };
                    star = Some((behind, reach + 1));
                    next = behind;
                    at = reach + 1;
                }
            }
        }
        wanted[next..].iter().all(Option::is_none)
    }

    pub(super) fn lowercase(mut self) -> Self {
        for piece in &mut self.0 {
            if let Piece::Literal(literal) = piece {
                literal.make_ascii_lowercase();
            }
        }
        self
    }

    /// The variable that is the whole pattern.
    pub(super) fn lone_variable(&self) -> Option<Variable> {
        match self.0.as_slice() {
            [Piece::Variable(variable)] => Some(*variable),
            _ => None,
        }
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = Variable> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Variable(variable) => Some(*variable),
            _ => None,
        })
    }

    pub(super) fn literal_chars(&self) -> impl Iterator<Item = char> {
        self.0.iter().flat_map(|piece| match piece {
            Piece::Literal(literal) => literal.chars(),
            _ => "".chars(),
        })
    }
}

fn push_literal(pieces: &mut Vec<Piece>, c: char) {
    match pieces.last_mut() {
        Some(Piece::Literal(literal)) => literal.push(c),
        _ => pieces.push(Piece::Literal(c.into())),
    }
}

impl Variable {
    fn parse(name: &str) -> Result<Self, PatternError> {
        VARIABLES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, variable)| *variable)
            .ok_or_else(|| {
                let known: Vec<String> =
                    VARIABLES.iter().map(|(name, _)| format!("{{{name}}}")).collect();
                PatternError(format!("unknown variable {name:?}: known are {}", known.join(", ")))
            })
    }

    /// Whether the cluster's operator says what it stands for, and not the author of a pod.
    fn is_of_cluster(self) -> bool {
        match self {
            Self::ClusterDomain | Self::Node | Self::TrustDomain => true,
            Self::Namespace | Self::Pod | Self::ServiceAccount => false,
        }
    }

    pub(super) fn of<'a>(self, facts: &Facts<'a>) -> &'a str {
        match self {
            Self::ClusterDomain => facts.cluster_domain,
            Self::Namespace => facts.namespace,
            Self::Node => facts.node,
            Self::Pod => facts.pod,
            Self::ServiceAccount => facts.service_account,
            Self::TrustDomain => facts.trust_domain,
        }
    }
}

/// How characters that mean something in patterns are written to mean themselves.
const ESCAPES: [(&str, char); 3] = [("{{", '{'), ("}}", '}'), ("{*}", '*')];

/// `text` as a pattern that matches only itself.
pub(super) fn escape(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        match ESCAPES.iter().find(|(_, escaped)| *escaped == c) {
            Some((escape, _)) => pattern.push_str(escape),
            None => pattern.push(c),
        }
    }
    pattern
}
