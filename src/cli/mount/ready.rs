//! When a program says that it is ready.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(50);

/// What to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadyWhen {
    /// Somebody takes connections there.
    Answers(SocketAddr),
    /// A file is there.
    Exists(PathBuf),
    /// So much time has passed.
    After(Duration),
}

impl FromStr for ReadyWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("{text:?}: expected port:N, port:ADDRESS:N, file:PATH or seconds:N");
        let (kind, value) = text.split_once(':').ok_or_else(expected)?;
        match kind {
            "port" => {
                let here = value.parse().map(|port| (IpAddr::from(Ipv4Addr::LOCALHOST), port));
                let address = here.map(SocketAddr::from).or_else(|_| value.parse());
                address.map(Self::Answers).map_err(|_| expected())
            }
            "file" if !value.is_empty() => Ok(Self::Exists(value.into())),
            "seconds" => {
                let seconds =
                    value.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
                let seconds = seconds.ok_or_else(expected)?;
                Ok(Self::After(Duration::from_secs_f64(seconds)))
            }
            _ => Err(expected()),
        }
    }
}

impl ReadyWhen {
    /// Waits until it is.
    pub(super) async fn wait(&self) {
        if let Self::After(time) = self {
            return sleep(*time).await;
        }
        while !self.is_now().await {
            sleep(EVERY).await;
        }
    }

    async fn is_now(&self) -> bool {
        match self {
            Self::Answers(address) => {
                let connected = timeout(Duration::from_secs(1), TcpStream::connect(address)).await;
                connected.is_ok_and(|connected| connected.is_ok())
            }
            Self::Exists(file) => tokio::fs::try_exists(file).await.unwrap_or(false),
            Self::After(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_of_three() {
        let parse = |text: &str| text.parse::<ReadyWhen>();
        let local = |port: u16| ReadyWhen::Answers((Ipv4Addr::LOCALHOST, port).into());
        assert_eq!(parse("port:8080"), Ok(local(8080)));
        assert_eq!(parse("port:127.0.0.1:80"), Ok(local(80)));
        assert_eq!(parse("port:[::1]:80"), Ok(ReadyWhen::Answers("[::1]:80".parse().unwrap())));
        assert_eq!(parse("file:/run/ready"), Ok(ReadyWhen::Exists("/run/ready".into())));
        assert_eq!(parse("seconds:0.5"), Ok(ReadyWhen::After(Duration::from_millis(500))));
        for bad in
            ["", "port:", "port:a", "port:65536", "file:", "seconds:-1", "seconds:NaN", "hours:1"]
        {
            assert!(parse(bad).unwrap_err().contains("expected port:N"), "{bad}");
        }
    }

    #[tokio::test]
    async fn waits_until_it_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        ReadyWhen::Answers(listener.local_addr().unwrap()).wait().await;
        let directory = tempfile::tempdir().unwrap();
        let file = ReadyWhen::Exists(directory.path().join("ready"));
        assert!(!file.is_now().await);
        let (wait, ()) = tokio::join!(file.wait(), async {
            std::fs::write(directory.path().join("ready"), "").unwrap();
        });
        let () = wait;
    }
}
