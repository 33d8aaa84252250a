//! Where a record goes, and whether it is there: zones, CNAME records, and authoritative servers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::TxtRecord;
use super::exchange::{ExchangeError, ask};
use crate::issuer::web::Reach;
use crate::issuer::{IssueError, IssueErrorKind};

/// Asks name servers.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Resolvers; empty for those of the node.
    resolvers: Vec<SocketAddr>,
    /// Whether only those are asked.
    resolvers_only: bool,
    reach: Reach,
}

/// Where a name is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    name: Name,
    apex: Name,
    servers: Vec<Server>,
}

/// A name server.
#[derive(Clone, Debug)]
struct Server {
    name: String,
    addresses: Vec<SocketAddr>,
}

/// As many as no honest chain has.
const MOST_CNAMES: usize = 8;
const MOST_DELEGATIONS: usize = 8;
/// Nobody has more, and nobody shall make us ask more.
const MOST_SERVERS: usize = 13;
const MOST_ADDRESSES: usize = 4;

const PORT: u16 = 53;

/// For all of the way to a name, over servers of which some may be down.
const LONGEST_SEARCH: Duration = Duration::from_secs(60);

/// The waits between two looks at whether a record is there grow from the first to the second.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A server that fails so often in a row, while others answer, is down and nobody waits for it.
const MOST_FAILURES: u32 = 3;

impl Lookup {
    /// With these resolvers, for an issuer that reaches so far.
    ///
    /// # Errors
    ///
    /// When one of them is out of reach.
    pub(super) fn new(
        resolvers: Vec<SocketAddr>,
        resolvers_only: bool,
        reach: Reach,
    ) -> Result<Self, String> {
        for resolver in &resolvers {
            reach.check(resolver.ip()).map_err(|reason| format!("nameservers: {reason}"))?;
        }
        Ok(Self { resolvers, resolvers_only, reach })
    }

    /// Where `name` is; with `follow`, where CNAME records there lead to.
    pub(super) async fn locate(&self, name: &str, follow: bool) -> Result<Place, IssueError> {
        timeout(LONGEST_SEARCH, self.search(name, follow)).await.unwrap_or_else(|_| {
            let message = format!(
                "where {name} is was not found within {} seconds: mend its name servers",
                LONGEST_SEARCH.as_secs()
            );
            Err(IssueError::new(IssueErrorKind::Unavailable, message))
        })
    }

    async fn search(&self, name: &str, follow: bool) -> Result<Place, IssueError> {
        let mut name = fully_qualified(name)?;
        for _ in 0..MOST_CNAMES {
            let (place, target) = self.authority(&name).await?;
            match target {
                Some(target) if follow => name = target,
                _ => return Ok(place),
            }
        }
        let message = format!("the CNAME records at {} lead too far: mend them", plain(&name));
        Err(IssueError::new(IssueErrorKind::Config, message))
    }

    /// Returns when the servers of the zone have `record`.
    pub(super) async fn propagated(
        &self,
        record: &TxtRecord,
        deadline: Instant,
    ) -> Result<(), IssueError> {
        let late = |seen: &str| {
            let message = format!("the TXT record {} is not everywhere yet: {seen}", record.name);
            IssueError::new(IssueErrorKind::Pending, message)
        };
        // A CNAME record counts here whatever is to become of it: the CA follows it as well.
        let place = timeout_at(deadline, self.locate(&record.name, true))
            .await
            .map_err(|_| late("its zone's servers do not answer"))??;
        let mut failures = vec![0; place.servers.len()];
        let mut wait = SHORTEST_WAIT;
        let mut seen = "no server of its zone was asked in time".to_owned();
        loop {
            let looks = place.servers.iter().map(|server| self.look(server, &place.name, record));
            let Ok(looks) = timeout_at(deadline, join_all(looks)).await else {
                return Err(late(&seen));
            };
            for (failures, look) in failures.iter_mut().zip(&looks) {
                *failures = if matches!(look, Look::Failed(_)) { *failures + 1 } else { 0 };
            }
            let has = looks.iter().any(|look| matches!(look, Look::Has));
            let waits = looks.iter().zip(&failures).any(|(look, failures)| match look {
                Look::Has => false,
                Look::Lacks => true,
                Look::Failed(_) => *failures < MOST_FAILURES,
            });
            if has && !waits {
                return Ok(());
            }
            seen = describe(&place.servers, &looks);
            if Instant::now() + wait >= deadline {
                return Err(late(&seen));
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Whether `server` has `record` at `name`.
    async fn look(&self, server: &Server, name: &Name, record: &TxtRecord) -> Look {
        match self.ask_server(server, name, RecordType::TXT).await {
            Ok(answer) if answer.answers.iter().any(|it| text(it) == record.value) => Look::Has,
            Ok(_) => Look::Lacks,
            Err(error) => Look::Failed(error.to_string()),
        }
    }

    /// The zone of `name` and its servers, and where a CNAME record at `name` leads to.
    async fn authority(&self, name: &Name) -> Result<(Place, Option<Name>), IssueError> {
        let (mut apex, mut servers) = self.zone_above(name).await?;
        for _ in 0..MOST_DELEGATIONS {
            let answer = self.ask_any(&servers, name).await?;
            match Finding::of(&answer, &apex, name) {
                Finding::Zone(below) => {
                    if below != apex && !self.resolvers_only {
                        servers = self.servers(&below).await?;
                    }
                    let place = Place { name: name.clone(), apex: below, servers };
                    return Ok((place, None));
                }
                Finding::Alias(target) => {
                    let place = Place { name: name.clone(), apex, servers };
                    return Ok((place, Some(target)));
                }
                Finding::Delegation(below) => {
                    servers = self.servers(&below).await?;
                    apex = below;
                }
            }
        }
        let message = format!("the delegations above {} go round in circles", plain(name));
        Err(IssueError::new(IssueErrorKind::Config, message))
    }

    /// The zone that holds the parent of `name`, and its servers.
    async fn zone_above(&self, name: &Name) -> Result<(Name, Vec<Server>), IssueError> {
        let mut candidate = name.base_name();
        while !candidate.is_root() {
            let answer = self.resolve(&candidate, RecordType::SOA).await?;
            if let Some(apex) = soa(&answer, &candidate)
                && !apex.is_root()
            {
                let servers = self.servers(&apex).await?;
                return Ok((apex, servers));
            }
            candidate = candidate.base_name();
        }
        let message = format!(
            "no zone for {} is found: is the domain registered, and do nameservers name a \
             resolver that knows it?",
            plain(name)
        );
        Err(IssueError::new(IssueErrorKind::Config, message))
    }

    /// The servers of the zone at `apex`.
    async fn servers(&self, apex: &Name) -> Result<Vec<Server>, IssueError> {
        if self.resolvers_only {
            let server = |address: SocketAddr| Server {
                name: address.to_string(),
                addresses: vec![address],
            };
            return Ok(self.resolvers()?.into_iter().map(server).collect());
        }
        let answer = self.resolve(apex, RecordType::NS).await?;
        let mut names = name_servers(&answer.answers);
        if names.is_empty() {
            // A resolver that is an authoritative server of the parent, and does not recurse.
            names = name_servers(&answer.authorities);
        }
        let glue = &answer.additionals;
        let servers = names.into_iter().take(MOST_SERVERS).map(|name| self.server(name, glue));
        let servers = join_all(servers).await;
        if servers.iter().all(|server| server.addresses.is_empty()) {
            let message = format!(
                "the name servers of the zone {} have no address that may be asked: with \
                 nameserversOnly, only the resolvers are",
                plain(apex)
            );
            return Err(IssueError::new(IssueErrorKind::Unavailable, message));
        }
        Ok(servers)
    }

    /// The name server `name` with its addresses, as far as they are within reach: those that came
    /// with its name, or else those that are found.
    async fn server(&self, name: Name, glue: &[Record]) -> Server {
        let mut found: Vec<_> =
            glue.iter().filter(|record| record.name == name).filter_map(address).collect();
        if found.is_empty() {
            let (v4, v6) = tokio::join!(
                self.resolve(&name, RecordType::A),
                self.resolve(&name, RecordType::AAAA)
            );
            let answers = [v4, v6].into_iter().flatten();
            found = answers.flat_map(|it| it.answers).filter_map(|it| address(&it)).collect();
        }
        let addresses = found
            .into_iter()
            .filter(|address| self.reach.check(*address).is_ok())
            .take(MOST_ADDRESSES)
            .map(|address| SocketAddr::new(address, PORT))
            .collect();
        Server { name: plain(&name), addresses }
    }

    /// Asks the first of `servers` that answers who is responsible for `name`.
    async fn ask_any(&self, servers: &[Server], name: &Name) -> Result<Message, IssueError> {
        let mut seen = Vec::new();
        for server in servers {
            match self.ask_server(server, name, RecordType::SOA).await {
                Ok(answer) => return Ok(answer),
                Err(error) => seen.push(format!("{}: {error}", server.name)),
            }
        }
        let message = format!(
            "no authoritative server for {} answers ({}): mend them, or let this node reach them \
             on port 53, or set nameserversOnly",
            plain(name),
            seen.join(", ")
        );
        Err(IssueError::new(IssueErrorKind::Unavailable, message))
    }

    async fn ask_server(
        &self,
        server: &Server,
        name: &Name,
        record_type: RecordType,
    ) -> Result<Message, ExchangeError> {
        let mut last = ExchangeError::Silent;
        for address in &server.addresses {
            match ask(*address, name, record_type, self.resolvers_only).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks the first resolver that answers.
    async fn resolve(&self, name: &Name, record_type: RecordType) -> Result<Message, IssueError> {
        let mut seen = Vec::new();
        for resolver in self.resolvers()? {
            match ask(resolver, name, record_type, true).await {
                Ok(answer) => return Ok(answer),
                Err(error) => seen.push(format!("{resolver}: {error}")),
            }
        }
        let message = format!(
            "no name server answers where {} is ({}): mend them, or name others in nameservers",
            plain(name),
            seen.join(", ")
        );
        Err(IssueError::new(IssueErrorKind::Unavailable, message))
    }

    fn resolvers(&self) -> Result<Vec<SocketAddr>, IssueError> {
        if !self.resolvers.is_empty() {
            return Ok(self.resolvers.clone());
        }
        let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let found = resolvers_in(&text);
        if found.is_empty() {
            let message =
                format!("{RESOLV_CONF} of the node names no name server: name some in nameservers");
            return Err(IssueError::new(IssueErrorKind::Config, message));
        }
        Ok(found)
    }
}

impl Place {
    /// The name, without the last dot.
    pub(super) fn name(&self) -> String {
        plain(&self.name)
    }

    /// The zone, without the last dot.
    pub(super) fn zone(&self) -> String {
        plain(&self.apex)
    }
}

/// What a server says of a record.
enum Look {
    Has,
    Lacks,
    Failed(String),
}

fn describe(servers: &[Server], looks: &[Look]) -> String {
    let those = servers.iter().zip(looks).filter_map(|(server, look)| match look {
        Look::Has => None,
        Look::Lacks => Some(format!("{} does not have it", server.name)),
        Look::Failed(reason) => Some(format!("{}: {reason}", server.name)),
    });
    those.collect::<Vec<_>>().join(", ")
}

/// What an authoritative server of a zone says when it is asked for the SOA record of a name in it.
enum Finding {
    /// The zone that the name is in: this one, or one below it that the same server has.
    Zone(Name),
    /// Where a CNAME record at the name leads to.
    Alias(Name),
    /// A zone below this one that has servers of its own.
    Delegation(Name),
}

impl Finding {
    fn of(answer: &Message, apex: &Name, name: &Name) -> Self {
        let within = |zone: &Name| apex.zone_of(zone) && zone.zone_of(name);
        let alias = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *name => Some(target.0.to_lowercase()),
            _ => None,
        });
        if let Some(target) = alias {
            return Self::Alias(target);
        }
        if let Some(zone) = soa(answer, name).filter(within) {
            return Self::Zone(zone);
        }
        let delegation = answer.authorities.iter().find(|record| {
            matches!(record.data, RData::NS(_)) && record.name != *apex && within(&record.name)
        });
        match delegation {
            Some(record) => Self::Delegation(record.name.to_lowercase()),
            None => Self::Zone(apex.clone()),
        }
    }
}

/// The zone that an answer to a question for the SOA record of `name` tells: there it is, or the
/// denial is signed by it (RFC 2308 §2). None where a CNAME record leads the answer away.
fn soa(answer: &Message, name: &Name) -> Option<Name> {
    let is_soa = |record: &&Record| matches!(record.data, RData::SOA(_));
    if answer.answers.iter().any(|record| matches!(record.data, RData::CNAME(_))) {
        return None;
    }
    let found = answer.answers.iter().filter(is_soa).find(|record| record.name == *name);
    let denied = || answer.authorities.iter().filter(is_soa).find(|it| it.name.zone_of(name));
    found.or_else(denied).map(|record| record.name.to_lowercase())
}

/// The names of the servers in NS records.
fn name_servers(records: &[Record]) -> Vec<Name> {
    let server = |record: &Record| match &record.data {
        RData::NS(server) => Some(server.0.to_lowercase()),
        _ => None,
    };
    records.iter().filter_map(server).collect()
}

fn address(record: &Record) -> Option<IpAddr> {
    match record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// The text of a TXT record, whose parts belong together.
fn text(record: &Record) -> String {
    match &record.data {
        RData::TXT(text) => String::from_utf8_lossy(&text.txt_data.concat()).into_owned(),
        _ => String::new(),
    }
}

/// `name` as DNS has it.
pub(super) fn fully_qualified(name: &str) -> Result<Name, IssueError> {
    let parsed = Name::from_ascii(name).map_err(|error| {
        let message = format!("{name} is not a name that DNS can have");
        IssueError::new(IssueErrorKind::Config, message).caused_by(error)
    });
    parsed.map(|mut name| {
        name.set_fqdn(true);
        name.to_lowercase()
    })
}

/// `name` as people write it.
fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}

/// Where the node's resolvers are.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The name servers in a text of resolv.conf(5).
fn resolvers_in(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    servers.filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, PORT))).collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{CNAME, NS, SOA, TXT};

    use super::*;

    fn name(text: &str) -> Name {
        fully_qualified(text).unwrap()
    }

    fn record(at: &str, data: RData) -> Record {
        Record::from_rdata(name(at), 60, data)
    }

    fn soa_at(zone: &str) -> Record {
        let data = SOA::new(name("ns"), name("root"), 1, 60, 60, 60, 60);
        record(zone, RData::SOA(data))
    }

    fn answer(answers: Vec<Record>, authorities: Vec<Record>) -> Message {
        let mut message = Message::query();
        message.answers = answers;
        message.authorities = authorities;
        message
    }

    #[test]
    fn a_zone_is_where_its_soa_is() {
        let host = name("a.b.example.com");
        let at = |zone: &str| soa(&answer(vec![], vec![soa_at(zone)]), &host);
        assert_eq!(at("example.com"), Some(name("example.com")));
        assert_eq!(at("example.org"), None, "not above the name");
        let own = answer(vec![soa_at("a.b.example.com")], vec![]);
        assert_eq!(soa(&own, &host), Some(host.clone()));
        // The denial is about where the alias leads to.
        let alias = record("a.b.example.com", RData::CNAME(CNAME(name("c.example.com"))));
        assert_eq!(soa(&answer(vec![alias], vec![soa_at("example.com")]), &host), None);
    }

    #[test]
    fn an_authoritative_answer_tells_zone_alias_or_delegation() {
        let (apex, host) = (name("example.com"), name("_acme-challenge.www.example.com"));
        let of = |answers, authorities| Finding::of(&answer(answers, authorities), &apex, &host);
        let ns = |zone: &str| record(zone, RData::NS(NS(name("ns.example.net"))));
        let zone = |finding| match finding {
            Finding::Zone(zone) => plain(&zone),
            _ => panic!("no zone"),
        };
        assert_eq!(zone(of(vec![], vec![soa_at("example.com")])), "example.com");
        assert_eq!(zone(of(vec![], vec![soa_at("www.example.com")])), "www.example.com");
        assert_eq!(zone(of(vec![], vec![ns("example.com")])), "example.com", "not below");
        assert_eq!(zone(of(vec![], vec![ns("example.org")])), "example.com", "elsewhere");
        assert_eq!(zone(of(vec![], vec![soa_at("com")])), "example.com", "above");
        let below = of(vec![], vec![ns("www.example.com")]);
        assert!(matches!(below, Finding::Delegation(at) if at == name("www.example.com")));
        let target = RData::CNAME(CNAME(name("C.example.net")));
        let alias = of(vec![record("_acme-challenge.www.example.com", target)], vec![]);
        assert!(matches!(alias, Finding::Alias(to) if plain(&to) == "c.example.net"));
    }

    #[test]
    fn a_long_text_comes_in_parts() {
        let parts = TXT::new(vec!["ab".to_owned(), "cd".to_owned()]);
        assert_eq!(text(&record("a", RData::TXT(parts))), "abcd");
    }

    #[test]
    fn the_node_tells_its_resolvers() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n\
                    nameserver 2001:db8::1 \nnameserver nonsense\noptions ndots:5\n";
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53"].map(|it| it.parse().unwrap());
        assert_eq!(resolvers_in(text), expected);
    }

    #[test]
    fn a_tenant_names_no_resolver_of_the_node() {
        let named = |reach| Lookup::new(vec!["127.0.0.1:53".parse().unwrap()], false, reach);
        assert!(named(Reach::default()).unwrap_err().starts_with("nameservers: 127.0.0.1"));
        assert!(named(Reach::Anywhere).is_ok());
    }
}
