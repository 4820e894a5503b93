//! Who the gateway is to the platform, and the secrets and files that show it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::SectionBuilder;
use crate::auth::settings::{Auth, Authority, Bootstrap, login_of};
use crate::auth::{credentials_file, one_time_password, own_file};
use crate::config::fault::Place;
use crate::config::keys::{self, Key, Setting};
use crate::files::{self, FileContent};
use crate::net::identity::{Files, Identity, IdentityError};
use crate::words::date;

/// Where adit keeps what the platform's own authority issues.
pub(in crate::config) const ISSUED_CERTIFICATE: &str = "/var/lib/adit/device.pem";
pub(in crate::config) const OWN_KEY: &str = "/var/lib/adit/device.key";

/// A certificate that the authority has issued earlier.
enum Earlier {
    /// It can be used.
    Living(Identity),
    /// It cannot any more, by the clock of this machine.
    Expired(Identity),
    /// There is none.
    Missing,
}

impl SectionBuilder<'_> {
    /// Who adit is, and the authority that issues and renews its certificate, where there is one.
    pub(in crate::config) fn auth(&mut self) -> Option<(Auth, Option<Authority>)> {
        let place = |builder: &Self, keys: &[Key]| keys.iter().find_map(|key| builder.place(key));
        let is_issued = self.get(&keys::AUTH_CERTIFICATE_AUTHORITY)?;
        let authority_key = keys::AUTH_CERTIFICATE_AUTHORITY.key;
        let files = [keys::AUTH_CERT_FILE.key, keys::AUTH_KEY_FILE.key];
        let certificate = match is_issued {
            true => [authority_key].iter().chain(&files).copied().collect(),
            false => files.to_vec(),
        };
        let password_keys = [
            keys::AUTH_ONE_TIME_PASSWORD.key,
            keys::AUTH_ONE_TIME_PASSWORD_FILE.key,
        ];
        if let (false, Some(place)) = (is_issued, place(self, &password_keys)) {
            let words = "needs auth.certificate_authority = true, whose certificates it is for";
            self.refuse(&place, words);
            return None;
        }
        let login = [
            keys::AUTH_USERNAME.key,
            keys::AUTH_PASSWORD.key,
            keys::AUTH_PASSWORD_FILE.key,
        ];
        let bootstrap = [
            keys::AUTH_BOOTSTRAP_TENANT.key,
            keys::AUTH_BOOTSTRAP_USERNAME.key,
            keys::AUTH_BOOTSTRAP_PASSWORD.key,
            keys::AUTH_BOOTSTRAP_PASSWORD_FILE.key,
        ];
        let places = [
            (place(self, &certificate), "a certificate"),
            (place(self, &login), "a user"),
            (place(self, &bootstrap), "a registration"),
        ];
        let given: Vec<_> = places
            .iter()
            .filter_map(|(place, what)| Some((place.as_ref()?, what)))
            .collect();
        if let [(place, _), (other, what), ..] = given[..] {
            self.refuse(
                place,
                format!("{what} is set too ({other}); only one of them can be"),
            );
            return None;
        }
        let auth = match places {
            [(Some(_), _), ..] if is_issued => return self.authority(),
            [(Some(_), _), ..] => self.identity().map(Auth::Certificate),
            [_, (Some(_), _), _] => self.login(),
            [.., (Some(_), _)] => self.bootstrap(),
            _ if self.place(&keys::MQTT_URL.key).is_some() => Some(Auth::None),
            // The platform itself takes nobody without a login; says what is missing.
            _ => self.login(),
        };
        Some((auth?, None))
    }

    /// The certificate that the authority has issued, or else what it takes to have one issued.
    fn authority(&mut self) -> Option<(Auth, Option<Authority>)> {
        let certificate = self.path_or(&keys::AUTH_CERT_FILE, ISSUED_CERTIFICATE);
        let key = self.path_or(&keys::AUTH_KEY_FILE, OWN_KEY);
        let renew_before = self.get(&keys::AUTH_RENEW_BEFORE);
        let files = Files {
            certificate: certificate?,
            key: key?,
        };
        self.check_two_files(&files)?;
        let written = written_for(&files);
        let (cert_key, key_key) = (&keys::AUTH_CERT_FILE.key, &keys::AUTH_KEY_FILE.key);
        self.check_name(cert_key, &files.certificate, &written)?;
        self.check_name(key_key, &files.key, &written)?;
        let mut authority = Authority {
            files,
            one_time_password: None,
            renew_before: renew_before?,
        };
        // Whoever has given the password may have removed it once it was used.
        let expired = match self.issued(&authority.files)? {
            Earlier::Living(identity) => {
                return Some((Auth::Certificate(identity), Some(authority)));
            }
            Earlier::Expired(identity) => Some(identity),
            Earlier::Missing => None,
        };
        let password_key = &keys::AUTH_ONE_TIME_PASSWORD;
        let file_key = &keys::AUTH_ONE_TIME_PASSWORD_FILE;
        let is_named = [&password_key.key, &file_key.key].map(|key| self.place(key).is_some());
        // A clock that is set soon must not keep a gateway down for good that is registered.
        let is_gone = expired.is_some() && is_named == [false, true] && self.is_gone(file_key);
        if is_named == [false, true]
            && let Some(file) = self.get(file_key)
        {
            let own = one_time_password::file(&authority.files);
            let others: Vec<_> = written.into_iter().filter(|(it, _)| *it != own).collect();
            self.check_name(&file_key.key, &file, &others)?;
        }
        if is_named.contains(&true) && !is_gone {
            authority.one_time_password = Some(self.password(password_key, file_key)?);
        }
        Some((Auth::Unenrolled(expired), Some(authority)))
    }

    /// Whether there is no file of a one-time password any more, which is a warning then.
    fn is_gone(&mut self, file: &Setting<PathBuf>) -> bool {
        let Some(path) = self.get(file) else {
            return false;
        };
        let is_found = |error: io::Error| error.kind() != io::ErrorKind::NotFound;
        if (self.sources.read)(&path).map_or_else(is_found, |_| true) {
            return false;
        }
        let path = path.display();
        self.gathered.warnings.push(format!(
            "auth.one_time_password_file names {path}, which is not there: adit makes a one-time \
             password itself, and logs the link to open"
        ));
        true
    }

    /// A key that the certificate is written over is lost for good.
    fn check_two_files(&mut self, files: &Files) -> Option<()> {
        if !files::are_one_file(&files.certificate, &files.key) {
            return Some(());
        }
        let key = &keys::AUTH_KEY_FILE.key;
        let place = self
            .place(key)
            .unwrap_or_else(|| Place::Key(key.full_name()));
        let words = format!(
            "{:?} is the file of auth.cert_file too, and adit would write the certificate over the \
             key; name another file, for the key alone",
            files.key.display().to_string()
        );
        self.refuse(&place, words);
        None
    }

    /// A file with a name that adit itself writes to is lost; `written` holds such names, each with the key
    /// of the file that they are derived from.
    fn check_name(&mut self, key: &Key, path: &Path, written: &[(PathBuf, Key)]) -> Option<()> {
        // A link of another name is not looked for.
        let is_written =
            |own: &Path| own.file_name() == path.file_name() && files::are_one_file(own, path);
        let Some((_, of)) = written.iter().find(|(own, _)| is_written(own)) else {
            return Some(());
        };
        let place = self.place(key);
        let place = place.unwrap_or_else(|| Place::Key(key.full_name()));
        let words = format!(
            "{:?} is the name of what adit writes for {}, so that the file would be lost; name another \
             file",
            path.display().to_string(),
            of.full_name()
        );
        self.refuse(&place, words);
        None
    }

    fn path_or(&mut self, setting: &Setting<PathBuf>, default: &str) -> Option<PathBuf> {
        match self.place(&setting.key) {
            Some(_) => self.get(setting),
            None => Some(default.into()),
        }
    }

    /// The certificate that was issued earlier.
    ///
    /// One that was renewed and has not been used yet counts where the one in use has expired: the last
    /// login may be long ago.
    fn issued(&mut self, files: &Files) -> Option<Earlier> {
        let certificate = match (self.sources.read)(&files.certificate) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(Earlier::Missing),
            Err(error) => {
                self.refuse_own(&files.certificate, &format!("cannot be read: {error}"));
                return None;
            }
        };
        let again = "to have a new one issued, remove the certificate";
        let key = match (self.sources.read)(&files.key) {
            Ok(content) => content,
            Err(error) => {
                let certificate = files.certificate.display();
                let words = format!(
                    "cannot be read: {error}; it is the key of the certificate in {certificate}; \
                     {again}"
                );
                self.refuse_own(&files.key, &words);
                return None;
            }
        };
        if key.world_readable {
            self.warn_of_readable("key", &files.key);
        }
        match Identity::parse(files.clone(), &certificate.bytes, &key.bytes) {
            Ok(identity) if identity.life.1 < self.sources.now => {
                let renewed = (self.sources.read)(&files.renewed()).ok();
                let renewed = renewed
                    .and_then(|pem| Identity::parse(files.clone(), &pem.bytes, &key.bytes).ok())
                    .filter(|renewed| renewed.name() == identity.name())
                    .filter(|renewed| renewed.life.1 >= self.sources.now);
                if let Some(renewed) = renewed {
                    return Some(Earlier::Living(renewed.issued()));
                }
                let path = files.certificate.display();
                let (ended, clock) = (date(identity.life.1), date(self.sources.now));
                self.gathered.warnings.push(format!(
                    "the certificate in {path} expired at {ended}, and now is {clock}: the device \
                     has to be registered again, unless the clock of this machine is wrong"
                ));
                Some(Earlier::Expired(identity))
            }
            Ok(identity) => {
                self.warn_of_life(&files.certificate, identity.life);
                Some(Earlier::Living(identity.issued()))
            }
            Err(error) => {
                let path = match error {
                    IdentityError::Certificate(_) => &files.certificate,
                    IdentityError::Key(_) => &files.key,
                };
                self.refuse_own(path, &format!("{error}; {again}"));
                None
            }
        }
    }

    fn refuse_own(&mut self, path: &Path, words: &str) {
        self.refuse(&Place::File(path.to_owned()), words);
    }

    /// The credentials of an earlier registration, or else what it takes to register.
    fn bootstrap(&mut self) -> Option<Auth> {
        let tenant = self.get(&keys::AUTH_BOOTSTRAP_TENANT);
        let username_key = &keys::AUTH_BOOTSTRAP_USERNAME;
        if self.place(&username_key.key).is_none() {
            self.refuse_missing(&username_key.key, username_key.key.about);
        }
        let username = self.get(username_key);
        let password_key = &keys::AUTH_BOOTSTRAP_PASSWORD;
        let file_key = &keys::AUTH_BOOTSTRAP_PASSWORD_FILE;
        if self.place(&password_key.key).is_none() && self.place(&file_key.key).is_none() {
            self.refuse_missing(&password_key.key, password_key.key.about);
        }
        let password = self.password(password_key, file_key);
        let credentials_file = self.get(&keys::AUTH_CREDENTIALS_FILE);
        let (tenant, username, password) = (tenant?, username?, password?);
        let credentials_file = credentials_file?;
        self.gathered.named_files.push(credentials_file.clone());
        match (self.sources.read)(&credentials_file) {
            Ok(content) => self.earlier_credentials(&credentials_file, &content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let credentials_key = keys::AUTH_CREDENTIALS_FILE.key;
                let written = [(own_file::beside(&credentials_file), credentials_key)];
                self.check_name(&credentials_key, &credentials_file, &written)?;
                if self.place(&file_key.key).is_some()
                    && let Some(file) = self.get(file_key)
                {
                    self.check_name(&file_key.key, &file, &written)?;
                }
                let user = format!("{tenant}/{username}");
                Some(Auth::Bootstrap(Bootstrap {
                    user,
                    password,
                    credentials_file,
                }))
            }
            Err(error) => {
                self.refuse(
                    &Place::File(credentials_file),
                    format!("cannot be read: {error}"),
                );
                None
            }
        }
    }

    fn earlier_credentials(&mut self, path: &Path, content: &FileContent) -> Option<Auth> {
        if content.world_readable {
            self.warn_of_readable("password", path);
        }
        match credentials_file::parse(&content.bytes) {
            Ok(credentials) => {
                let (user, password) = login_of(credentials);
                Some(Auth::Password { user, password })
            }
            Err(error) => {
                self.refuse(
                    &Place::File(path.to_owned()),
                    format!("{error}; remove it to register again"),
                );
                None
            }
        }
    }

    fn login(&mut self) -> Option<Auth> {
        let username_key = &keys::AUTH_USERNAME.key;
        let user = match self.place(username_key) {
            Some(_) => self.user(),
            None => {
                self.refuse_missing(username_key, username_key.about);
                None
            }
        };
        let password_key = &keys::AUTH_PASSWORD.key;
        let password_place = self
            .place(password_key)
            .or_else(|| self.place(&keys::AUTH_PASSWORD_FILE.key));
        if password_place.is_none() {
            let file = keys::AUTH_PASSWORD_FILE.key;
            let words = format!(
                "{}; {} ({}) may name a file that holds it",
                password_key.about,
                file.full_name(),
                file.variable()
            );
            self.refuse_missing(password_key, &words);
        }
        let password = self.password(&keys::AUTH_PASSWORD, &keys::AUTH_PASSWORD_FILE);
        Some(Auth::Password {
            user: user?,
            password: password?,
        })
    }

    /// Tenant and user. The user name may begin with the tenant, as it does in MQTT.
    fn user(&mut self) -> Option<String> {
        let tenant_place = self.place(&keys::AUTH_TENANT.key);
        let tenant = self.get(&keys::AUTH_TENANT);
        let username = self.get(&keys::AUTH_USERNAME)?;
        match (username.split_once('/'), tenant_place) {
            (None, None) => {
                let key = keys::AUTH_TENANT.key;
                self.refuse_missing(&key, key.about);
                None
            }
            (None, Some(_)) => Some(format!("{}/{username}", tenant?)),
            (Some(_), None) => Some(username),
            (Some((named, _)), Some(place)) => {
                let tenant = tenant?;
                if named == tenant {
                    return Some(username);
                }
                let words = format!("{tenant:?} is not the tenant {named:?} of auth.username");
                self.refuse(&place, words);
                None
            }
        }
    }

    /// The certificate and its key, which come in two files.
    fn identity(&mut self) -> Option<Identity> {
        for (key, other) in [
            (keys::AUTH_CERT_FILE.key, keys::AUTH_KEY_FILE.key),
            (keys::AUTH_KEY_FILE.key, keys::AUTH_CERT_FILE.key),
        ] {
            if let (Some(place), None) = (self.place(&key), self.place(&other)) {
                let words = format!("needs {} ({}) too", other.full_name(), other.variable());
                self.refuse(&place, words);
                return None;
            }
        }
        let certificate = self.file(&keys::AUTH_CERT_FILE);
        let key = self.file(&keys::AUTH_KEY_FILE);
        let (certificate_place, certificate_path, certificate) = certificate?;
        let (key_place, key_path, key) = key?;
        if key.world_readable {
            self.warn_of_readable("key", &key_path);
        }
        let files = Files {
            certificate: certificate_path.clone(),
            key: key_path.clone(),
        };
        match Identity::parse(files, &certificate.bytes, &key.bytes) {
            Ok(identity) => {
                self.warn_of_life(&certificate_path, identity.life);
                Some(identity)
            }
            Err(error) => {
                let (place, path) = match error {
                    IdentityError::Certificate(_) => (certificate_place, certificate_path),
                    IdentityError::Key(_) => (key_place, key_path),
                };
                self.refuse(&place, format!("{:?} {error}", path.display().to_string()));
                None
            }
        }
    }

    /// A certificate may be renewed while adit runs, and a clock may be set.
    fn warn_of_life(&mut self, path: &Path, (begins, ends): (SystemTime, SystemTime)) {
        let now = self.sources.now;
        let (path, clock) = (path.display(), date(now));
        if now > ends {
            let ended = date(ends);
            self.gathered.warnings.push(format!(
                "the certificate in {path} expired at {ended}, and now is {clock}; it is read \
                 again at each connect"
            ));
        } else if now < begins {
            let begins = date(begins);
            self.gathered.warnings.push(format!(
                "the certificate in {path} is valid from {begins}, and now is {clock}; is the \
                 clock of this machine right?"
            ));
        }
    }
}

/// The files that adit writes besides a certificate and its key as it has them issued and renewed, each
/// with the key of the file that its name comes from.
fn written_for(files: &Files) -> [(PathBuf, Key); 6] {
    let (certificate, key) = (keys::AUTH_CERT_FILE.key, keys::AUTH_KEY_FILE.key);
    let renewed = files.renewed();
    [
        (own_file::beside(&files.certificate), certificate),
        (own_file::beside(&renewed), certificate),
        (renewed, certificate),
        (files.refused(), certificate),
        (one_time_password::file(files), certificate),
        (own_file::beside(&files.key), key),
    ]
}
