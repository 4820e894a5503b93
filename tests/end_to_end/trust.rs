//! What this machine trusts changes while adit runs.

use std::fs;
use std::path::PathBuf;

use crate::support::{Adit, Authority, Directory, Lan, Site, SiteOptions, Surroundings, Watcher};

const UNKNOWN: &str = "its certificate comes from an issuer that is not trusted";
const CHANGED: &str = "this machine trusts other certificates than before";

/// A site whose authority its machine does not know yet, and the file of those that it knows.
struct Machine {
    site: Site,
    directory: Directory,
    roots: PathBuf,
    watcher: Watcher,
}

impl Machine {
    async fn new() -> Self {
        let site = Site::with(SiteOptions {
            tls: true,
            ..SiteOptions::default()
        })
        .await;
        let directory = Directory::new();
        let other = Authority::called(&directory, "another authority");
        let roots = directory.path("roots.pem");
        fs::copy(&other.file, &roots).unwrap();
        Self {
            site,
            directory,
            roots,
            watcher: Watcher::new(),
        }
    }

    /// Starts adit, confined as usual, with no authority in its own configuration.
    async fn start(&self, variables: &[(&str, &str)]) -> Adit {
        let named = format!("ca_file = {:?}\n", self.site.ca_file());
        let config = self.site.config().replace(&named, "");
        let roots = self.roots.display().to_string();
        let mut all = vec![("SSL_CERT_FILE", roots.as_str())];
        all.extend(variables);
        let surroundings = Surroundings {
            variables: &all,
            ..Surroundings::default()
        };
        let adit = Adit::start_in(&surroundings, &config, &[&self.watcher.setting()]);
        let line = adit.wait_for_log("no connection to the broker").await;
        assert!(line.contains(UNKNOWN), "{line}");
        adit
    }

    /// Has another file take the place of the roots, as a package manager does.
    fn update(&self) {
        let known = fs::read_to_string(&self.roots).unwrap();
        let new = known + &fs::read_to_string(self.site.ca_file()).unwrap();
        fs::rename(self.directory.write("roots.new", &new), &self.roots).unwrap();
    }

    async fn works(&self, adit: Adit) {
        let adit = adit.ready().await;
        let lan = Lan::echo().await;
        let (_, mut far_end) = self.site.open(lan.port).await;
        far_end.echo("hello").await;
        drop(adit);
    }
}

#[tokio::test]
async fn trusts_at_a_reload_what_its_machine_trusts_by_then() {
    let machine = Machine::new().await;
    let mut adit = machine.start(&[]).await;
    machine.update();
    adit.hang_up();
    adit.wait_for_log(CHANGED).await;
    machine.works(adit).await;
}

#[tokio::test]
async fn says_at_a_reload_what_has_become_of_the_roots() {
    let machine = Machine::new().await;
    let adit = machine.start(&[]).await;
    let said = machine.watcher.reload(&[]).await;
    assert_eq!(said.result, "nothing has changed\n");
    machine.update();
    let said = machine.watcher.reload(&[]).await;
    assert_eq!(
        said.result,
        "this machine trusts other certificates than before, and adit does from the next login and \
         tunnel on\n"
    );
    fs::write(&machine.roots, "").unwrap();
    let said = machine.watcher.reload(&[]).await;
    assert_eq!(
        said.result,
        "nothing has changed\nwarning: the certificates that this machine trusts cannot be read again \
         (there are none any more); the last ones go on\n"
    );
    machine.works(adit).await;
}

#[tokio::test]
async fn trusts_by_itself_what_its_machine_trusts_where_an_issuer_is_unknown() {
    let machine = Machine::new().await;
    let adit = machine.start(&[("SIMULATED_HOUR_MS", "1000")]).await;
    machine.update();
    adit.wait_for_log(CHANGED).await;
    machine.works(adit).await;
}
