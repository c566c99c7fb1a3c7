//! Users and groups of an image, looked up as runc does for umoci: `user[:group]`, each a name or
//! a number; a number need not stand in the files; a file of accounts may be sloppy.

/// Whom a container runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Further groups; only where no group was asked for.
    pub(super) more_gids: Vec<u32>,
    /// Empty where it is not known.
    pub(super) home: String,
}

/// The largest id: runc's limit, for the sake of 32-bit systems.
const MAX_ID: i64 = (1 << 31) - 1;

/// Looks `spec` up; the empty one is root. The error is a reason without a subject.
pub(super) fn look_up(
    spec: &str,
    passwd: Option<&[u8]>,
    group: Option<&[u8]>,
) -> Result<Account, String> {
    let mut parts = spec.split(':');
    let [user, group_name] = [(); 2].map(|()| parts.next().unwrap_or_default());
    let user_number = if user.is_empty() { Some(0) } else { user.parse::<i64>().ok() };

    let found = records(passwd).find(|record| match user_number {
        Some(uid) => record.number(2) == uid,
        None => record.text(0) == user,
    });
    let mut account = Account::default();
    match (&found, user_number) {
        (Some(record), _) => {
            account.uid = id(record.number(2))?;
            account.gid = id(record.number(3))?;
            account.home.push_str(record.text(5));
        }
        (None, Some(uid)) => account.uid = id(uid)?,
        (None, None) => return Err("no such user in its /etc/passwd".into()),
    }

    if group_name.is_empty() {
        let name = found.as_ref().map_or("", |record| record.text(0));
        if !name.is_empty() {
            let member = |record: &Record| record.text(3).split(',').any(|member| member == name);
            account.more_gids = records(group)
                .filter(member)
                .map(|record| id(record.number(2)))
                .collect::<Result<_, _>>()?;
        }
        return Ok(account);
    }
    let group_number = group_name.parse::<i64>().ok();
    let found = records(group).find(|record| match group_number {
        Some(gid) => record.number(2) == gid,
        None => record.text(0) == group_name,
    });
    account.gid = match (found, group_number) {
        (Some(record), _) => id(record.number(2))?,
        (None, Some(gid)) => id(gid)?,
        (None, None) => return Err("no such group in its /etc/group".into()),
    };
    Ok(account)
}

fn id(number: i64) -> Result<u32, String> {
    u32::try_from(number)
        .ok()
        .filter(|_| number <= MAX_ID)
        .ok_or_else(|| format!("{number} is no id between 0 and {MAX_ID}"))
}

/// One line of a file of accounts.
struct Record(Vec<String>);

impl Record {
    fn text(&self, field: usize) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    /// What is no number is 0, as runc has it.
    fn number(&self, field: usize) -> i64 {
        self.text(field).parse().unwrap_or(0)
    }
}

fn records(file: Option<&[u8]>) -> impl Iterator<Item = Record> {
    file.unwrap_or_default().split(|byte| *byte == b'\n').filter_map(|line| {
        let line = String::from_utf8_lossy(line);
        let line = line.trim();
        (!line.is_empty()).then(|| Record(line.split(':').map(str::to_owned).collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\n  web:x:33:33::/var/www:/bin/false\n\
        1337:x:5:6::/odd:\nshort:x:7\nweb:x:99:99::/second:\nbad:x:2x:3::/bad:\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:33:\nlogs:x:4:root,web\nmore:x:8:web\n";

    fn account(spec: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        look_up(spec, Some(PASSWD), Some(GROUP))
            .map(|Account { uid, gid, more_gids, home }| (uid, gid, more_gids, home))
    }

    #[test]
    fn names_and_numbers() {
        for (spec, uid, gid, more, home) in [
            ("", 0, 0, vec![4], "/root"),
            ("root", 0, 0, vec![4], "/root"),
            ("web", 33, 33, vec![4, 8], "/var/www"),
            ("33", 33, 33, vec![4, 8], "/var/www"),
            ("web:logs", 33, 4, vec![], "/var/www"),
            ("web:1234", 33, 1234, vec![], "/var/www"),
            (":logs", 0, 4, vec![], "/root"),
            ("1000", 1000, 0, vec![], ""),
            ("1000:1001", 1000, 1001, vec![], ""),
            ("1337", 1337, 0, vec![], ""), // a number is a uid, whatever users are called
            ("short", 7, 0, vec![], ""),
            ("bad", 0, 3, vec![], "/bad"),
        ] {
            assert_eq!(account(spec), Ok((uid, gid, more, home.to_owned())), "{spec:?}");
        }
        assert_eq!(look_up("", None, None), Ok(Account::default()));
        assert_eq!(look_up("5:6", None, None).unwrap().gid, 6);
    }

    #[test]
    fn what_is_not_there_is_said() {
        for spec in ["nobody", "web:nogroup", "-1", "4294967296", "web:2147483648"] {
            assert!(account(spec).is_err(), "{spec:?}");
        }
        assert!(look_up("web", None, None).is_err());
    }
}
