//! Figures of a container in the form that containerd's CRI plugin and `ctr task metrics` read: the cgroup packages' protobuf messages.
//!
//! Owns [`metrics`]. Memory comes from the guest (the cgroup holds the whole pod's), CPU time from the container's cgroup or, without one,
//! from the vCPU thread.

use std::time::Duration;

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::cgroup::{Cgroup, Version};
use crate::events::any;
use crate::guest::GuestStats;

/// The figures, as a message for the cgroup version of `version`.
#[must_use]
pub fn metrics(version: Version, stats: &GuestStats, group: Option<&Cgroup>) -> Any {
    let cpu_time = group.and_then(Cgroup::cpu_time).filter(|time| !time.is_zero()).unwrap_or(stats.cpu_time);
    let (periods, throttled_periods, throttled) = group.map(Cgroup::throttling).unwrap_or_default();
    match version {
        Version::V1 => any(&v1_metrics(stats, cpu_time, periods, throttled_periods, throttled)),
        Version::V2 => any(&v2_metrics(stats, cpu_time, periods, throttled_periods, throttled)),
    }
}

fn faults(stats: &GuestStats) -> u64 {
    stats.faults.demand + stats.faults.native_cow + stats.faults.snapshot_cow
}

fn v1_metrics(
    stats: &GuestStats,
    cpu_time: Duration,
    periods: u64,
    throttled_periods: u64,
    throttled: Duration,
) -> v1::Metrics {
    let total = cpu_time.as_nanos() as u64;
    let memory = v1::MemoryEntry {
        limit: stats.limit_bytes,
        usage: stats.used_bytes,
        max: stats.used_bytes,
        ..Default::default()
    };
    v1::Metrics {
        pids: MessageField::some(v1::PidsStat { current: stats.threads.into(), ..Default::default() }),
        cpu: MessageField::some(v1::CPUStat {
            usage: MessageField::some(v1::CPUUsage { total, user: total, ..Default::default() }),
            throttling: MessageField::some(v1::Throttle {
                periods,
                throttled_periods,
                throttled_time: throttled.as_nanos() as u64,
                ..Default::default()
            }),
            ..Default::default()
        }),
        memory: MessageField::some(v1::MemoryStat {
            rss: stats.used_bytes,
            total_rss: stats.used_bytes,
            pg_fault: faults(stats),
            total_pg_fault: faults(stats),
            hierarchical_memory_limit: stats.limit_bytes,
            usage: MessageField::some(memory),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn v2_metrics(
    stats: &GuestStats,
    cpu_time: Duration,
    periods: u64,
    throttled_periods: u64,
    throttled: Duration,
) -> v2::Metrics {
    let usage_usec = cpu_time.as_micros() as u64;
    v2::Metrics {
        pids: MessageField::some(v2::PidsStat { current: stats.threads.into(), ..Default::default() }),
        cpu: MessageField::some(v2::CPUStat {
            usage_usec,
            user_usec: usage_usec,
            nr_periods: periods,
            nr_throttled: throttled_periods,
            throttled_usec: throttled.as_micros() as u64,
            ..Default::default()
        }),
        memory: MessageField::some(v2::MemoryStat {
            anon: stats.used_bytes,
            pgfault: faults(stats),
            usage: stats.used_bytes,
            usage_limit: stats.limit_bytes,
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::Message as _;

    use super::*;

    fn stats() -> GuestStats {
        GuestStats {
            cpu_time: Duration::from_micros(1500),
            used_bytes: 10 << 20,
            limit_bytes: 64 << 20,
            threads: 3,
            ..GuestStats::default()
        }
    }

    #[test]
    fn both_versions_carry_the_guests_figures() {
        let message = metrics(Version::V1, &stats(), None);
        assert_eq!(message.type_url, "io.containerd.cgroups.v1.Metrics");
        let decoded = v1::Metrics::parse_from_bytes(&message.value).unwrap();
        assert_eq!(decoded.cpu.usage.total, 1_500_000);
        assert_eq!(decoded.memory.usage.usage, 10 << 20);
        assert_eq!(decoded.memory.usage.limit, 64 << 20);
        let message = metrics(Version::V2, &stats(), None);
        assert_eq!(message.type_url, "io.containerd.cgroups.v2.Metrics");
        let decoded = v2::Metrics::parse_from_bytes(&message.value).unwrap();
        assert_eq!((decoded.cpu.usage_usec, decoded.memory.usage, decoded.pids.current), (1500, 10 << 20, 3));
    }
}
