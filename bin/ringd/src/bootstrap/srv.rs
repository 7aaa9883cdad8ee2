//! `--discovery-srv`: the members of a new cluster from the SRV records of a domain.
//!
//! `_etcd-server-ssl._tcp` lists members with TLS, `_etcd-server._tcp` those without. A record that leads to one of this
//! member's advertised addresses is this member; the others get numbers for names, which are hashed nowhere.

use super::{dns::NameServers, resolve::Resolver};
use crate::{
    config::{url, Config, Url},
    identity::{BootstrapError, InitialCluster},
    info,
    logging::{Log, Value},
    warn,
};
use std::net::SocketAddr;

/// Scheme and service of the two lists, in the order in which they are joined.
const LISTS: [(&str, &str); 2] = [("https", "etcd-server-ssl"), ("http", "etcd-server")];

/// The cluster that the domain's records list. This member is in it.
pub fn cluster(
    config: &Config,
    servers: &NameServers,
    resolver: &dyn Resolver,
    log: &Log,
) -> Result<InitialCluster, BootstrapError> {
    let failed = |why: String| BootstrapError(format!("error setting up initial cluster: {why}"));
    let lookup = Lookup {
        config,
        servers,
        resolver,
    };
    let suffix = match config.discovery_srv_name.as_str() {
        "" => String::new(),
        name => format!("-{name}"),
    };
    let mut members = Vec::new();
    let mut errors = Vec::new();
    for (scheme, base) in LISTS {
        let service = format!("{base}{suffix}");
        let (found, error) = match lookup.members(scheme, &service) {
            Ok(found) => (found, String::new()),
            Err(error) => (Vec::new(), error),
        };
        info!(log, &format!("get cluster for {base} SRV"),
            "service-scheme" => scheme, "service-name" => service.as_str(),
            "server-name" => config.name.as_str(), "discovery-srv" => config.discovery_srv.as_str(),
            "advertise-peer-urls" => Value::strs(&config.initial_advertise_peer_urls),
            "found-cluster" => Value::strs(&found), "error" => error.as_str());
        members.extend(found);
        errors.extend(Some(error).filter(|error| !error.is_empty()));
    }
    if !errors.is_empty() {
        warn!(log, "failed to resolve during SRV discovery", "error" => errors.join("; "));
    }
    if members.is_empty() {
        return Err(failed(errors.join("; ")));
    }
    for member in &members {
        info!(log, "got bootstrap from DNS for etcd-server", "node" => member.as_str());
    }
    let cluster =
        InitialCluster::parse(&members.join(",")).map_err(|error| failed(error.to_string()))?;
    if cluster.urls_of(&config.name).is_none() {
        return Err(failed(format!(
            "cannot find local etcd member {} in SRV records",
            url::quoted(&config.name)
        )));
    }
    Ok(cluster)
}

struct Lookup<'a> {
    config: &'a Config,
    servers: &'a NameServers,
    resolver: &'a dyn Resolver,
}

impl Lookup<'_> {
    /// `name=url` for each record of a service whose target has an address.
    fn members(&self, scheme: &str, service: &str) -> Result<Vec<String>, String> {
        let own = self.advertised()?;
        let name = format!("_{service}._tcp.{}", self.config.discovery_srv);
        let failed = |why: String| format!("error querying DNS SRV records for _{service} {why}");
        let places = self
            .servers
            .places(&name)
            .map_err(|error| failed(error.to_string()))?;
        let mut members = Vec::new();
        let mut last_error = None;
        let mut unnamed = 0;
        for place in places {
            let address = match self.address(&place.target, place.port) {
                Ok(address) => address,
                Err(error) => {
                    last_error = Some(error);
                    continue;
                }
            };
            let host = place.target.trim_end_matches('.');
            let at = format!("{scheme}://{host}:{}", place.port);
            let mine = own.iter().find(|(own, _)| *own == address);
            let name = match mine {
                Some(_) => self.config.name.clone(),
                None => {
                    unnamed += 1;
                    (unnamed - 1).to_string()
                }
            };
            match mine {
                Some((_, url)) if !url.as_str().starts_with(&format!("{scheme}:")) => {
                    last_error = Some(format!(
                        "bootstrap at {at} from DNS for {service} has scheme mismatch with expected peer {url}"
                    ));
                }
                _ => members.push(format!("{name}={at}")),
            }
        }
        match (members.is_empty(), last_error) {
            (true, Some(error)) => Err(failed(error)),
            _ => Ok(members),
        }
    }

    /// The addresses that this member advertises.
    fn advertised(&self) -> Result<Vec<(SocketAddr, &Url)>, String> {
        let urls = self.config.initial_advertise_peer_urls.iter();
        urls.filter(|url| !url.scheme().is_unix())
            .map(|url| {
                let address = self.resolver.resolve(url.address());
                let address = address.map_err(|error| format!("lookup {}: {error}", url.host()))?;
                Ok((address, url))
            })
            .collect()
    }

    fn address(&self, target: &str, port: u16) -> Result<SocketAddr, String> {
        self.resolver
            .resolve(&format!("{target}:{port}"))
            .map_err(|error| format!("lookup {target}: {error}"))
    }
}
