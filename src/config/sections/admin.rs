//! Where adit may be looked at, and what whoever looks has to know.

use super::SectionBuilder;
use crate::admin::settings::Settings;
use crate::config::keys;
use crate::password;
use crate::secret::Secret;

/// A token that is shorter can be guessed by whoever has time, and gets a warning.
const SHORT_TOKEN: usize = 16;

impl SectionBuilder<'_> {
    pub(in crate::config) fn admin(&mut self) -> Option<Settings> {
        let listen = self.get_optional(&keys::ADMIN_LISTEN).flatten();
        let listen_place = self.place(&keys::ADMIN_LISTEN.key);
        let token = self.place(&keys::ADMIN_TOKEN_FILE.key);
        let token = token.map(|_| self.admin_token());
        let socket = self.get(&keys::ADMIN_SOCKET);
        if let (Some(place), Some(listen), None) = (&listen_place, listen, &token)
            && !listen.ip().to_canonical().is_loopback()
        {
            let words = format!(
                "everybody who reaches {listen} could look at this gateway: set admin.token_file \
                 ({}), or listen at a loopback address such as 127.0.0.1:{}",
                keys::ADMIN_TOKEN_FILE.key.variable(),
                listen.port()
            );
            self.refuse(place, words);
        }
        let token = match token {
            Some(token) => Some(token?),
            None => None,
        };
        Some(Settings {
            listen,
            token,
            socket: socket?,
            is_socket_set: self.place(&keys::ADMIN_SOCKET.key).is_some(),
        })
    }

    fn admin_token(&mut self) -> Option<Secret> {
        let (place, path, content) = self.file(&keys::ADMIN_TOKEN_FILE)?;
        let shown = path.display().to_string();
        if content.world_readable {
            self.warn_of_readable("token", &path);
        }
        match password::parse_content(content.bytes, super::super::values::token) {
            Ok(token) => {
                if token.expose().len() < SHORT_TOKEN {
                    self.gathered.warnings.push(format!(
                        "the token in {shown} has less than {SHORT_TOKEN} characters and can be \
                         guessed; make one with: openssl rand -hex 16"
                    ));
                }
                Some(token)
            }
            Err(clause) => {
                self.refuse(&place, format!("the content of {shown:?} {clause}"));
                None
            }
        }
    }
}
