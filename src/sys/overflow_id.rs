//! The user and group id that the kernel reports for every id without a mapping in a user namespace (user_namespaces(7)).

use std::fs;

/// The id that the kernel reports for every user without a mapping in this process's user namespace. None in a namespace that
/// maps all users, as the initial one does.
pub(crate) fn uid_of_unmapped_users() -> Option<u32> {
    id_of_unmapped("/proc/sys/kernel/overflowuid", "/proc/self/uid_map")
}

/// As [`uid_of_unmapped_users`], for groups.
pub(crate) fn gid_of_unmapped_groups() -> Option<u32> {
    id_of_unmapped("/proc/sys/kernel/overflowgid", "/proc/self/gid_map")
}

fn id_of_unmapped(overflow: &str, map: &str) -> Option<u32> {
    // Without /proc the mapping is unknown.
    let (Ok(overflow), Ok(map)) = (fs::read_to_string(overflow), fs::read_to_string(map)) else { return None };
    overflow.trim().parse().ok().filter(|_| !maps_all(&map))
}

/// Each line holds: first id inside, first id outside, count. The last id, 2^32 - 1, is no user.
fn maps_all(map: &str) -> bool {
    let counts = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    counts.sum::<u64>() >= u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_map_is_told_from_one_with_gaps() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(maps_all("0 100000 65536\n65536 200000 4294901759\n"));
        for gaps in ["", "0 0 1\n", "0 1000 1\n1 100000 65536\n", "0 0 4294967294\n", "0 0\n", "a b c\n"] {
            assert!(!maps_all(gaps), "{gaps:?}");
        }
    }

    #[test]
    fn the_overflow_id_stands_for_others_only_where_some_are_not_mapped() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file");
            path.to_str().expect("UTF-8").to_owned()
        };
        let (overflow, all, some) =
            (file("overflow", "65534\n"), file("all", "0 0 4294967295\n"), file("some", "0 1000 1\n"));
        assert_eq!(id_of_unmapped(&overflow, &some), Some(65_534));
        assert_eq!(id_of_unmapped(&overflow, &all), None);
        assert_eq!(id_of_unmapped("/nonexistent", &some), None);
        assert_eq!(id_of_unmapped(&overflow, "/nonexistent"), None);
    }
}
