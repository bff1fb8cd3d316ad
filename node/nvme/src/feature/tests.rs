//! Features, bit by bit.

use super::*;

/// Each bit of `known`, alone and with all others, is kept by decoding and encoding.
fn keeps(known: u32, again: impl Fn(u32) -> u32) {
    for bit in 0..32 {
        for value in [1u32 << bit, !(1u32 << bit)] {
            assert_eq!(again(value), value & known, "bit {bit}");
        }
    }
}

#[test]
fn each_bit_belongs_to_one_field() {
    keeps(0xFFFF_FF07, |value| Arbitration::decode(value).encode());
    keeps(0x0000_00FF, |value| PowerManagement::decode(value).encode());
    keeps(0x003F_FFFF, |value| TemperatureThreshold::decode(value).encode());
    keeps(0x0001_FFFF, |value| ErrorRecovery::decode(value).encode());
    keeps(0x0000_0001, |value| VolatileWriteCache::decode(value).encode());
    keeps(0xFFFF_FFFF, |value| NumberOfQueues::decode(value).encode());
    keeps(0x0000_0001, |value| WriteAtomicity::decode(value).encode());
    keeps(0xFFFF_FFFF, |value| KeepAliveTimer::decode(value).encode());
    keeps(0x8000_FF3F, |value| AsyncEventConfiguration::from_bits_truncate(value).bits());
}

#[test]
fn each_field_stands_where_the_specification_has_it() {
    assert_eq!(
        Arbitration::decode(0x0403_02FF),
        Arbitration { burst: 7, low_weight: 3, medium_weight: 4, high_weight: 5 }
    );
    assert_eq!(Arbitration::UNLIMITED.encode(), 7);
    assert_eq!(
        PowerManagement::decode(0xFFFF_FF5F),
        PowerManagement { state: 31, workload_hint: 2 }
    );
    assert_eq!(
        TemperatureThreshold::decode(0xFFD8_0157),
        TemperatureThreshold { kelvins: 343, sensor: 8, kind: 1 }
    );
    assert_eq!(
        ErrorRecovery::decode(0xFFFE_0102),
        ErrorRecovery { time_limit: 258, deallocated_error: false }
    );
    assert!(ErrorRecovery::decode(0x0001_0000).deallocated_error);
    assert_eq!(
        InterruptCoalescing::decode(0xFFFF_05FF),
        InterruptCoalescing { threshold: 256, time: 5 }
    );
}

#[test]
fn there_is_one_queue_more_than_the_field_says() {
    let queues = NumberOfQueues::decode(0x0003_0001);
    assert_eq!(queues, NumberOfQueues { submission: 2, completion: 4 });
    let most = NumberOfQueues::decode(0xFFFF_0000);
    assert_eq!(most, NumberOfQueues { submission: 1, completion: 65536 });
    assert!(most.completion > NumberOfQueues::MAX);
}

#[test]
fn events_have_the_bits_of_the_specification() {
    for (bit, event) in [
        (0, AsyncEventConfiguration::SPARE_BELOW_THRESHOLD),
        (1, AsyncEventConfiguration::TEMPERATURE),
        (2, AsyncEventConfiguration::RELIABILITY_DEGRADED),
        (3, AsyncEventConfiguration::READ_ONLY),
        (4, AsyncEventConfiguration::VOLATILE_MEMORY_BACKUP_FAILED),
        (5, AsyncEventConfiguration::PERSISTENT_MEMORY_READ_ONLY),
        (8, AsyncEventConfiguration::NAMESPACE_ATTRIBUTE_CHANGED),
        (9, AsyncEventConfiguration::FIRMWARE_ACTIVATION_STARTING),
        (10, AsyncEventConfiguration::TELEMETRY_LOG_CHANGED),
        (11, AsyncEventConfiguration::ANA_CHANGE),
        (12, AsyncEventConfiguration::PREDICTABLE_LATENCY_LOG_CHANGED),
        (13, AsyncEventConfiguration::LBA_STATUS_ALERT),
        (14, AsyncEventConfiguration::ENDURANCE_GROUP_LOG_CHANGED),
        (15, AsyncEventConfiguration::SUBSYSTEM_SHUTDOWN),
        (31, AsyncEventConfiguration::DISCOVERY_LOG_CHANGED),
    ] {
        assert_eq!(event.bits(), 1 << bit);
    }
}

#[test]
fn a_timestamp_has_the_bytes_of_the_specification() {
    let bytes = [1, 2, 3, 4, 5, 6, 0b0000_0011, 0];
    let time =
        Timestamp { milliseconds: 0x0605_0403_0201, set_by_host: true, may_have_stopped: true };
    assert_eq!(time.encode(), bytes);
    assert_eq!(Timestamp::decode(&bytes), time);
    let reserved = [1, 2, 3, 4, 5, 6, 0b1111_0010, 0xFF];
    assert_eq!(Timestamp::decode(&reserved), Timestamp { may_have_stopped: false, ..time });
    for attributes in 0..=255u8 {
        let decoded = Timestamp::decode(&[0, 0, 0, 0, 0, 0, attributes, 0]);
        assert_eq!(decoded.set_by_host, attributes & 0x0E == 0x02);
        assert_eq!(decoded.may_have_stopped, attributes & 1 == 1);
    }
}

#[test]
fn host_behavior_has_the_bytes_of_the_specification() {
    let all = HostBehaviorSupport {
        advanced_retry: true,
        extended_telemetry: true,
        extended_lba_formats: true,
        dispersed_namespaces: true,
        copy_formats: 0x1C,
    };
    let bytes = all.encode();
    assert_eq!(bytes[..8], [1, 1, 1, 1, 0x1C, 0, 0, 0]);
    assert_eq!(HostBehaviorSupport::decode(&bytes), Some(all));
    for at in 0..4 {
        let mut one = [0; 512];
        one[at] = 1;
        let decoded = HostBehaviorSupport::decode(&one).expect("ones and zeroes");
        assert_eq!(decoded.encode(), one);
        one[at] = 2;
        assert_eq!(HostBehaviorSupport::decode(&one), None);
    }
}
