//! The checks of a member that has no data yet, in etcd's order and words.

use super::resolve::Comparison;
use crate::{
    config::{
        url::{self, quoted},
        Config, Url,
    },
    identity::{BootstrapError, Founding, InitialCluster},
};

/// The initial cluster as configured.
pub fn configured(config: &Config) -> Result<InitialCluster, BootstrapError> {
    InitialCluster::parse(&config.initial_cluster)
        .map_err(|error| BootstrapError(format!("error setting up initial cluster: {error}")))
}

/// Checks the cluster that this member is to found, and computes the identifiers that follow. Asking other members whether
/// this one exists already is the caller's.
pub fn found(
    config: &Config,
    cluster: &InitialCluster,
    token: &str,
    comparison: &Comparison<'_>,
) -> Result<Founding, BootstrapError> {
    check_local_name(cluster, &config.name)?;
    check_advertised(cluster, config, comparison)?;
    check_duplicates("initial", cluster)?;
    Ok(Founding::of(cluster, token, &config.name))
}

/// The checks of a member that joins a running cluster: the advertised URLs and the token are not compared.
pub fn check_joining(config: &Config, cluster: &InitialCluster) -> Result<(), BootstrapError> {
    check_local_name(cluster, &config.name)?;
    check_duplicates("initial", cluster)
}

fn check_local_name(cluster: &InitialCluster, name: &str) -> Result<(), BootstrapError> {
    match cluster.urls_of(name) {
        Some(_) => Ok(()),
        None => Err(BootstrapError(format!(
            "couldn't find local name {} in the initial cluster configuration",
            quoted(name)
        ))),
    }
}

/// `source` says where the list comes from.
pub fn check_duplicates(source: &str, cluster: &InitialCluster) -> Result<(), BootstrapError> {
    let mut urls: Vec<&Url> = cluster.members().flat_map(|(_, urls)| urls).collect();
    let count = urls.len();
    urls.sort();
    urls.dedup();
    match urls.len() == count {
        true => Ok(()),
        false => Err(BootstrapError(format!(
            "{source} cluster {cluster} has duplicate url"
        ))),
    }
}

fn check_advertised(
    cluster: &InitialCluster,
    config: &Config,
    comparison: &Comparison<'_>,
) -> Result<(), BootstrapError> {
    let listed = cluster.urls_of(&config.name).unwrap_or_default();
    let mut advertised = config.initial_advertise_peer_urls.clone();
    advertised.sort();
    let Err(why) = comparison.check(&advertised, listed) else {
        return Ok(());
    };
    let named = |urls: &[&Url]| {
        let pairs = urls.iter().map(|url| format!("{}={url}", config.name));
        pairs.collect::<Vec<_>>().join(",")
    };
    let without = |urls: &'_ [Url], others: &[Url]| -> Vec<Url> {
        let rest = urls.iter().filter(|url| !others.contains(url));
        rest.cloned().collect()
    };
    let missing = without(listed, &advertised);
    if !missing.is_empty() {
        return Err(BootstrapError(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({why})",
            named(&missing.iter().collect::<Vec<_>>()),
            url::join(&advertised)
        )));
    }
    // Here etcd shows the advertised URLs where it names the initial cluster.
    let all = named(&advertised.iter().collect::<Vec<_>>());
    let extra = without(&advertised, listed);
    if !extra.is_empty() {
        return Err(BootstrapError(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={all}",
            url::join(&extra)
        )));
    }
    Err(BootstrapError(format!(
        "failed to resolve {} to match --initial-cluster={all} ({why})",
        url::join(&advertised)
    )))
}

#[cfg(test)]
mod tests {
    use super::super::resolve::tests::{impatient, Table};
    use super::*;
    use crate::{
        config::{load_on, System},
        logging::Log,
    };

    fn config(args: &[&str]) -> Config {
        let args = ["ringd", "--data-dir=d"].iter().chain(args);
        let args = args.map(|a| a.to_string()).collect();
        load_on(&System, args, &[])
            .map(|l| l.config)
            .unwrap_or_else(|e| panic!("{}", e.stderr))
    }

    fn founded(args: &[&str]) -> Result<Founding, String> {
        let config = config(args);
        let (table, log) = (Table::default(), Log::discard());
        configured(&config)
            .and_then(|cluster| {
                let token = &config.initial_cluster_token;
                found(&config, &cluster, token, &impatient(&table, &log))
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn founding_orders_members_by_identifier() {
        let founding = founded(&[
            "--name=n2",
            "--initial-cluster-token=etcd-cluster-1",
            "--initial-advertise-peer-urls=http://127.0.0.1:22380",
            "--initial-cluster=n1=http://127.0.0.1:2380,n2=http://127.0.0.1:22380,n3=http://127.0.0.1:32380",
        ])
        .unwrap();
        assert_eq!(
            (founding.cluster_id, founding.local_id),
            (0x059a05384c9b79ee, 0x91bc3c398fb3c146)
        );
        let names = founding.members.iter().map(|m| m.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["n2", "n1", "n3"]);
        assert_eq!(founded(&[]).unwrap().local_id, 0x8e9e05c52164694d);
    }

    /// The texts were recorded from etcd 3.5.1, but for the form of [`super::super::resolve::Mismatch`], which is that of
    /// later releases.
    #[test]
    fn refusals_have_etcds_texts() {
        const N1: &str = "--name=n1";
        for (args, text) in [
            (
                &["--initial-cluster=n1"][..],
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
            ),
            (
                &[N1, "--initial-cluster=n2=http://a:1"],
                "couldn't find local name \"n1\" in the initial cluster configuration",
            ),
            (
                &["--initial-cluster="],
                "couldn't find local name \"default\" in the initial cluster configuration",
            ),
            (
                &["--name="],
                "couldn't find local name \"\" in the initial cluster configuration",
            ),
            (
                &[
                    N1,
                    "--initial-cluster=n1=http://127.0.0.1:1",
                    "--initial-advertise-peer-urls=http://127.0.0.1:2",
                ],
                "--initial-cluster has n1=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=http://127.0.0.1:2 (resolved urls: \"http://127.0.0.1:2\" != \"http://127.0.0.1:1\")",
            ),
            (
                &[
                    N1,
                    "--initial-cluster=n1=http://127.0.0.1:1",
                    "--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2",
                ],
                "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from --initial-cluster=n1=http://127.0.0.1:1,n1=http://127.0.0.1:2",
            ),
            (
                &[
                    N1,
                    "--initial-cluster=n1=http://b.example:1",
                    "--initial-advertise-peer-urls=http://127.0.0.1:1",
                ],
                "--initial-cluster has n1=http://b.example:1 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1 (failed to resolve \"http://b.example:1\" (lookup b.example: no such host))",
            ),
            (
                &[
                    N1,
                    "--initial-cluster=n1=http://127.0.0.1:1,n1=http://127.0.0.1:1",
                    "--initial-advertise-peer-urls=http://127.0.0.1:1",
                ],
                "failed to resolve http://127.0.0.1:1 to match --initial-cluster=n1=http://127.0.0.1:1 (len([\"http://127.0.0.1:1\"]) != len([\"http://127.0.0.1:1\" \"http://127.0.0.1:1\"]))",
            ),
            (
                &[
                    N1,
                    "--initial-cluster=n1=http://127.0.0.1:1,n2=http://127.0.0.1:1",
                    "--initial-advertise-peer-urls=http://127.0.0.1:1",
                ],
                "initial cluster n1=http://127.0.0.1:1,n2=http://127.0.0.1:1 has duplicate url",
            ),
        ] {
            assert_eq!(founded(args), Err(text.to_owned()), "{args:?}");
        }
    }

    #[test]
    fn a_member_may_be_advertised_under_another_name_of_its_place() {
        let founding = founded(&[
            "--name=n1",
            "--initial-cluster=n1=http://a.example:1",
            "--initial-advertise-peer-urls=http://alias.example:1",
        ])
        .unwrap();
        // The identifier comes from the list that all members share.
        assert_eq!(
            founding.members[0].peer_urls[0].as_str(),
            "http://a.example:1"
        );
    }

    #[test]
    fn joining_does_not_compare_advertised_urls() {
        let joining = |cluster: &str| {
            let list = format!("--initial-cluster={cluster}");
            let advertised = "--initial-advertise-peer-urls=http://127.0.0.1:9";
            let config = config(&["--name=n1", &list, advertised]);
            let cluster = configured(&config).unwrap();
            check_joining(&config, &cluster).map_err(|error| error.to_string())
        };
        assert_eq!(
            joining("n1=http://127.0.0.1:1,n2=http://127.0.0.1:2"),
            Ok(())
        );
        assert_eq!(
            joining("n2=http://127.0.0.1:2"),
            Err("couldn't find local name \"n1\" in the initial cluster configuration".into())
        );
        assert_eq!(
            joining("n1=http://127.0.0.1:1,n2=http://127.0.0.1:1"),
            Err(
                "initial cluster n1=http://127.0.0.1:1,n2=http://127.0.0.1:1 has duplicate url"
                    .into()
            )
        );
    }
}
