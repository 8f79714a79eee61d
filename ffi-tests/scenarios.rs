//! The behavioural scenarios of `ffi-tests/python`, one Rust test for each: whole processes, kills, raw sockets and
//! systemd's environment, all through the C ABI of the shared object that was just built.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use support::{library, project, python3, run_ok};

/// A scenario that hangs first says where (`UDSIPC_TEST_TRACE_AFTER`), and is then ended.
const PATIENCE: Duration = Duration::from_secs(130);
const TRACE_AFTER: &str = "110";

/// What a service manager may have set for whoever runs the tests. It is not meant for the scenarios.
const SYSTEMD: [&str; 6] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"];

fn run_scenario(name: &str) {
    let python = python3().expect("the scenarios need python3");
    let mut command = Command::new(python);
    command.args(["-m", "unittest", name]).current_dir(project("ffi-tests/python"));
    command.env("UDSIPC_LIBRARY", library()).env("UDSIPC_TEST_TRACE_AFTER", TRACE_AFTER);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    for variable in SYSTEMD {
        command.env_remove(variable);
    }
    let output = run_ok(&mut command, PATIENCE);
    assert!(output.contains("Ran 1 test"), "{name} is no test:\n{output}");
}

macro_rules! scenarios {
    ($($module:ident { $($class:ident { $($test:ident,)* })* })*) => {
        const LISTED: &[&str] = &[
            $($($(concat!(stringify!($module), ".", stringify!($class), ".", stringify!($test)),)*)*)*
        ];
        $(mod $module {
            $(#[allow(non_snake_case)]
            mod $class {
                $(#[test]
                fn $test() {
                    crate::run_scenario(concat!(
                        stringify!($module), ".", stringify!($class), ".", stringify!($test)
                    ));
                })*
            })*
        })*
    };
}

scenarios! {
    test_accounting {
        Books {
            test_while_streaming,
            test_while_readers_come_and_go,
            test_while_connections_break_over_unread_data,
            test_when_stop_gives_up,
            test_refusals_are_counted_once_each,
            test_failed_counts_attempts_and_sent_counts_messages,
            test_what_is_being_written_counts_in_the_queue,
            test_reader_errors_count_one_each,
            test_an_older_programs_smaller_struct_gets_what_fits,
        }
        WriteMessages {
            test_all_in_order,
            test_it_stops_at_the_first_that_is_refused,
            test_empty_messages_among_others,
            test_none_at_all,
            test_accepted_is_written_also_on_failure,
        }
        WriteWithTimeout {
            test_room_at_once,
            test_no_room_in_time,
            test_room_in_time,
            test_it_waits_for_bytes_too,
            test_what_can_never_fit_is_refused_without_waiting,
            test_ten_thousand_through_a_queue_of_three,
        }
        Flush {
            test_it_waits_until_the_reader_has_read,
            test_nothing_to_wait_for,
            test_nobody_listens,
            test_everyone_who_waits_is_told_of_a_loss,
            test_after_flush_the_reader_may_be_stopped_at_once,
            test_messages_written_later_do_not_prolong_it,
            test_it_goes_on_over_a_reconnect,
            test_the_client_side_helper_agrees,
        }
    }
    test_contract {
        Header {
            test_this_binding_has_every_function_of_the_header,
            test_numbers_are_those_of_the_header,
            test_the_library_exports_every_function,
        }
        Texts {
            test_every_status_has_a_text_of_its_own,
            test_any_number_has_a_text,
            test_version_is_the_headers,
            test_last_error_is_this_threads,
        }
        Fork {
            test_a_forked_child_is_refused_and_harms_nothing,
        }
        HandlesInUse {
            test_an_error_callback_uses_the_handle_that_is_being_freed,
            test_a_message_callback_uses_the_handle_that_is_being_freed,
            test_free_inside_the_handles_own_callback_neither_hangs_nor_breaks,
        }
        Signals {
            test_sigpipe_is_never_raised_in_the_host,
            test_threads_of_the_library_block_all_signals,
        }
    }
    test_delivery {
        TwoProcesses {
            test_a_million_messages_of_random_length,
            test_ten_mebibyte_messages,
            test_fifty_writers_to_one_reader,
            test_a_writer_that_stops_after_its_last_message_loses_none,
        }
        OneWriter {
            test_eight_threads_keep_each_threads_order,
            test_messages_are_copied,
            test_sizes_from_one_byte_to_a_hundred_kilobytes,
            test_several_writers_with_small_and_large_buffers,
            test_healthy_traffic_reports_nothing,
            test_an_oversize_message_that_fits_the_kernel_buffer_is_the_readers_error_only,
        }
        FullQueue {
            test_a_full_queue_refuses_and_counts,
            test_capacity_is_exact_while_disconnected,
            test_capacity_is_exact_while_the_reader_takes_nothing,
            test_too_many_before_start,
            test_a_refused_message_can_be_written_again_when_there_is_room,
            test_a_message_that_is_too_large_is_refused_at_once,
        }
        RawClients {
            test_messages_of_three_clients,
        }
    }
    test_event_loop {
        Selectors {
            test_messages_go_through_without_any_thread,
            test_the_writers_descriptor_says_when_there_is_work,
            test_the_readers_descriptor_says_when_there_is_work,
            test_callbacks_run_in_the_dispatching_thread,
            test_dispatch_waits_as_long_as_it_is_told,
            test_dispatch_of_zero_does_not_wait,
            test_timers_run_in_the_loop_too,
            test_start_and_dispatch_exclude_each_other,
            test_stop_drains_by_itself,
            test_a_flood_does_not_keep_dispatch_for_ever,
            test_many_connections_in_one_loop,
        }
        Asyncio {
            test_a_reader_and_a_writer_in_asyncio,
        }
    }
    test_framing {
        WriterWire {
            test_exact_bytes_at_the_varint_boundaries,
            test_nothing_is_said_before_the_first_message,
            test_every_byte_value_goes_through,
            test_an_empty_message_is_accepted_and_not_sent,
            test_empty_messages_fill_no_queue,
        }
        ReaderFraming {
            test_non_minimal_prefixes_are_accepted,
            test_prefixes_at_the_varint_boundaries,
            test_pieces_and_many_in_one_piece,
            test_frames_cut_at_every_byte,
            test_empty_frames_are_silent,
            test_empty_frames_keep_a_connection_alive,
            test_the_size_limit_is_inclusive,
            test_a_limit_of_zero_refuses_every_message_but_not_keep_alives,
            test_end_between_frames_is_silent,
            test_connect_and_close_is_silent,
            test_payloads_behind_out_of_band_bytes_survive,
        }
        BadInput {
            test_tenth_byte_with_continuation,
            test_tenth_byte_above_one,
            test_largest_prefix_is_too_large_not_malformed,
            test_end_inside_the_prefix,
            test_end_before_the_first_payload_byte,
            test_end_inside_the_payload,
            test_end_inside_a_large_payload,
            test_oversize_is_decided_from_the_prefix_alone,
            test_bytes_behind_a_bad_frame_are_discarded,
            test_bytes_behind_a_bad_prefix_are_discarded,
            test_oversize_counts_once_whether_or_not_the_client_can_finish,
            test_an_announced_length_reserves_nothing,
            test_a_length_beyond_the_address_space_harms_nobody,
            test_descriptors_sent_by_a_stranger_do_not_stay,
        }
    }
    test_go_scenarios {
        NewWriter {
            test_valid_basic_configuration,
            test_valid_with_options,
            test_empty_socket_path,
            test_zero_write_timeout,
            test_negative_write_timeout,
            test_zero_dial_timeout,
            test_zero_max_backoff,
            test_socket_path_too_long,
        }
        WriterOptions {
            test_with_max_buffered_writes,
            test_with_write_timeout,
            test_with_dial_timeout,
            test_with_max_backoff,
            test_with_write_buffer_size,
        }
        WriterQueue {
            test_writer_buffer_full,
            test_writer_empty_message_filtering,
            test_writer_message_queue_full,
            test_writer_message_queue_full_with_retry,
        }
        WriterConnection {
            test_writer_connection_failure,
            test_writer_reconnection,
            test_writer_close,
            test_writer_write_failure,
        }
        WriterShutdownRaceConditions {
            test_close_timing,
            test_write_during_close,
            test_concurrent_close,
            test_close_during_connection,
            test_close_after_write_failure,
            test_context_timeout,
        }
        SendRetryMessage {
            test_successful_send,
            test_failed_send,
        }
        WriterRetryOnFailure {
            test_retry_message_sent_during_drain_phase,
            test_message_retried_after_write_failure,
            test_multiple_messages_sent_after_reconnect,
        }
        WriterGracefulShutdown {
            test_clean_shutdown_with_sufficient_timeout,
            test_forced_shutdown_with_short_timeout,
            test_cancelled_context,
        }
        WriterClassifyWriteError {
            test_timeout_error,
            test_non_timeout_net_error,
            test_regular_error,
            test_wrapped_timeout_error,
        }
        WriterDrain {
            test_writer_drain_error_handling,
        }
        NewReader {
            test_valid_basic_configuration,
            test_valid_with_options,
            test_nil_handler,
            test_empty_socket_path,
            test_invalid_max_accept_errors,
            test_invalid_inactivity_timeout,
            test_socket_path_too_long,
        }
        ReaderOptions {
            test_with_max_message_size,
            test_with_inactivity_timeout,
            test_with_max_accept_errors,
            test_with_read_buffer_size,
        }
        ReaderMessageHandling {
            test_single_message,
            test_multiple_messages,
            test_empty_message,
            test_message_too_large,
            test_handler_error,
        }
        ReaderStop {
            test_idempotent_close,
            test_no_hang_on_close,
            test_reader_context_cancellation,
            test_reader_graceful_shutdown,
            test_reader_forced_shutdown,
        }
        ReaderAcceptErrorHandling {
            test_below_threshold,
            test_exceed_threshold,
            test_at_threshold,
        }
        ReaderWriterIntegration {
            test_basic_communication,
            test_empty_messages,
            test_large_messages,
            test_message_size_limit_exceeded,
            test_many_small_messages,
            test_small_buffer_high_throughput,
        }
        ReaderWriter {
            test_reader_writer_connection_recovery,
            test_reader_writer_concurrent_senders,
            test_reader_writer_handler_error,
        }
        Systemd {
            test_no_systemd_environment,
            test_runtime_directory_only,
            test_state_directory_only,
            test_both_directories,
            test_no_systemd_use_fallback,
            test_systemd_with_runtime_dir,
            test_log_environment_standalone_mode,
        }
        FileSystem {
            test_ensure_socket_dir_success_case,
            test_ensure_socket_dir_permission_denied,
            test_cleanup_socket_file_exists,
            test_cleanup_socket_file_does_not_exist,
            test_cleanup_socket_permission_denied,
        }
    }
    test_options {
        WriterOptions {
            test_default_queue_holds_ten_thousand_messages,
            test_default_message_limit_is_the_readers,
            test_default_has_no_byte_limit,
            test_send_buffer,
            test_send_buffer_zero_leaves_the_systems,
            test_default_write_timeout_is_a_second,
            test_default_dial_timeout_is_a_second,
            test_times_of_zero_are_refused,
            test_queue_size_range,
            test_a_refusing_setter_changes_nothing,
            test_go_values_are_taken_and_the_last_one_counts,
            test_byte_limit_bounds_the_queue,
            test_new_touches_neither_file_nor_socket,
            test_socket_path_is_verbatim,
            test_paths_are_checked_first,
            test_null_options_are_the_defaults,
            test_a_writer_never_started_can_be_stopped,
        }
        ReaderOptions {
            test_default_message_limit,
            test_default_inactivity_timeout_is_ten_seconds,
            test_inactivity_timeout_of_zero_is_refused,
            test_inactivity_timeout_may_be_for_ever,
            test_max_accept_errors_range,
            test_max_handler_threads_range,
            test_go_values_are_taken,
            test_read_buffer_sizes_are_taken_without_effect,
            test_any_message_limit_is_taken,
            test_checks_come_before_side_effects,
            test_new_binds_and_start_serves_what_waited,
            test_a_reader_never_started_can_be_stopped,
            test_socket_path_is_known,
        }
    }
    test_paths {
        Limits {
            test_the_limit_is_107_bytes,
            test_107_bytes_work_from_end_to_end,
            test_108_bytes_are_refused_with_path_and_limit,
            test_bytes_that_are_not_utf8_are_a_path,
            test_resolve_says_how_much_room_it_needs,
        }
        Directories {
            test_missing_parents_are_made_with_mode_0750,
            test_ensure_socket_dir_obeys_the_umask_and_is_idempotent,
            test_an_existing_directory_is_left_as_it_is,
            test_a_parent_that_cannot_be_made_is_an_error,
        }
        Claiming {
            test_nothing_there,
            test_a_stale_socket_is_replaced,
            test_a_live_reader_is_left_alone,
            test_a_reader_that_is_not_started_is_left_alone,
            test_a_foreign_live_listener_is_left_alone,
            test_a_listener_with_a_full_backlog_is_alive,
            test_a_regular_file_is_left_alone,
            test_a_directory_is_left_alone,
            test_symlinks_are_left_alone,
            test_cleanup_takes_a_stale_socket_only,
            test_stop_removes_the_file,
            test_free_without_start_removes_the_file,
            test_stop_leaves_a_file_that_is_not_ours,
            test_stop_does_not_need_the_path,
            test_the_path_is_free_at_once_after_stop,
            test_the_path_works_at_once_after_kill,
        }
        SameInstant {
            test_two_processes,
            test_two_threads,
        }
        Modes {
            test_by_default_the_umask_decides,
            test_socket_mode_is_exact_whatever_the_umask,
            test_socket_mode_survives_a_stale_file_and_is_removed_at_stop,
            test_the_mode_is_never_wider_for_a_moment,
            test_bits_that_are_no_permissions_are_refused,
            test_socket_group,
        }
        Abstract {
            test_messages_go_through_without_any_file,
            test_a_file_of_that_name_is_left_alone,
            test_the_length_is_exact,
            test_a_live_owner_keeps_it_and_stop_gives_it_back,
        }
        Resolution {
            test_without_systemd_the_path_stays,
            test_runtime_directory_takes_the_name_of_the_file,
            test_the_first_of_several_runtime_directories,
            test_use_systemd_off_keeps_the_path,
            test_an_abstract_name_is_not_moved,
            test_the_resolved_path_must_fit,
            test_this_process_is_not_under_systemd,
        }
    }
    test_reader {
        Callbacks {
            test_messages_of_a_connection_arrive_in_order_one_at_a_time,
            test_callbacks_of_different_connections_run_at_the_same_time,
            test_a_blocked_callback_delays_no_other_connection,
            test_many_blocked_callbacks_delay_no_other_connection,
            test_one_handler_thread_means_no_overlap,
            test_handler_threads_are_bounded,
            test_threads_are_few_for_one_busy_connection,
            test_a_failing_callback_counts_and_keeps_the_connection,
            test_what_a_callback_returns_is_not_trusted,
            test_counters_come_before_callbacks,
            test_a_batch_says_how_far_it_came,
            test_a_batch_answer_out_of_range_is_not_trusted,
            test_a_batch_holds_one_connection,
            test_credentials_of_the_peer,
            test_stop_inside_a_callback_is_refused_and_changes_nothing,
            test_a_callback_may_write_and_read_metrics,
            test_start_is_idempotent_and_refused_after_stop,
            test_signals_of_the_host_disturb_nothing,
        }
        Inactivity {
            test_a_silent_connection_is_closed_silently,
            test_inside_a_prefix_it_is_silent_too,
            test_inside_a_payload_it_is_an_error,
            test_time_in_the_callback_does_not_count,
            test_each_frame_restarts_it,
            test_connections_time_out_on_their_own,
        }
        Admission {
            test_max_connections_refuses_the_next_one,
            test_uid_that_is_not_allowed_is_refused,
            test_uid_or_gid_that_is_allowed_is_served,
            test_a_supplementary_group_is_enough,
        }
        AcceptErrors {
            test_a_shortage_below_the_limit_is_counted_and_not_reported,
            test_a_shortage_past_the_limit_is_reported_once_and_survived,
            test_a_blocked_report_of_it_delays_no_connection,
            test_a_success_starts_the_count_again,
            test_it_does_not_spin,
            test_stop_works_meanwhile,
        }
    }
    test_recovery {
        KilledReader {
            test_repeatedly_under_load,
            test_slow_reader_with_more_unread_than_its_buffers_hold,
            test_slow_reader_with_a_burst_that_it_has_read_and_not_handled,
            test_a_writer_that_is_killed_leaves_whole_messages_only,
            test_recovery_takes_milliseconds,
            test_a_stopped_process_loses_nothing,
        }
        RestartedReader {
            test_a_running_writer_finds_the_next_reader,
        }
    }
    test_stop {
        WriterStop {
            test_idle_and_connected,
            test_with_nobody_listening_and_nothing_queued,
            test_while_backing_off_for_a_directory_that_is_missing,
            test_with_nobody_listening_it_gives_up_within_250_ms,
            test_a_time_of_zero_answers_within_100_ms,
            test_a_time_of_zero_with_a_reader_that_takes_nothing,
            test_a_short_time_is_kept,
            test_drain_sends_everything_queued_and_then_the_end,
            test_drain_connects_if_it_must,
            test_drain_survives_a_connection_that_the_reader_ends,
            test_drain_until_deadline_waits_for_a_reader_that_restarts,
            test_drain_until_deadline_ends_at_the_deadline,
            test_a_message_that_had_failed_before_is_reported_as_such,
            test_messages_given_up_as_poison_during_the_drain_are_no_success,
            test_later_stops_return_what_the_first_returned,
            test_ten_threads_stop_at_once,
            test_writes_after_stop_are_refused,
            test_stop_ends_although_producers_go_on,
            test_a_waiting_write_is_woken_by_stop,
            test_free_of_a_running_writer_is_a_forced_stop,
            test_metrics_can_be_read_before_start_and_after_stop,
        }
        ReaderStop {
            test_without_connections,
            test_those_who_wait_for_a_reader_never_started_are_told,
            test_idle_connections_do_not_prolong_it,
            test_a_running_callback_completes,
            test_past_its_time_it_still_waits_for_running_callbacks,
            test_past_its_time_no_new_callback_starts,
            test_what_is_in_the_kernels_buffers_is_served,
            test_clients_that_connect_write_and_exit_lose_nothing_at_stop,
            test_clients_racing_with_stop_lose_nothing,
            test_stop_is_idempotent_also_from_many_threads,
            test_after_stop_connects_are_refused_and_metrics_stay,
            test_free_of_a_running_reader_is_a_forced_stop,
            test_threads_and_descriptors_are_given_back,
        }
        ReaderRestart {
            test_with_a_writer,
            test_with_raw_clients_that_resend_on_epipe,
        }
        IdleClose {
            test_with_writers_whose_period_is_the_timeout,
            test_with_raw_clients_whose_period_is_the_timeout,
        }
    }
    test_systemd {
        Activation {
            test_descriptor_3_is_served_wherever_it_is_bound,
            test_a_message_sent_before_the_service_runs_is_served,
            test_file_and_backlog_belong_to_the_next_start,
            test_a_kill_leaves_the_backlog_too,
            test_several_descriptors_by_name,
            test_several_descriptors_by_path,
            test_two_readers_take_a_descriptor_each,
            test_a_descriptor_is_taken_once,
            test_an_unknown_name_is_an_error,
            test_another_pid_means_not_for_us,
            test_no_pid_means_not_for_us,
            test_no_descriptors_means_none,
            test_use_systemd_off_ignores_it,
            test_malformed_counts_are_an_error,
            test_more_descriptors_than_are_open_is_an_error,
            test_a_tcp_listener_is_an_error,
            test_a_datagram_socket_is_an_error,
            test_a_file_is_an_error,
            test_a_socket_that_does_not_listen_is_an_error,
            test_passed_descriptors_do_not_reach_grandchildren,
            test_the_environment_is_not_modified,
            test_stop_does_not_depend_on_the_path,
        }
        Notification {
            test_ready_at_start_and_stopping_when_stop_begins,
            test_ready_is_said_once_per_start,
            test_any_text_can_be_sent,
            test_use_systemd_off_says_nothing,
            test_a_failing_notification_is_reported_and_not_fatal,
            test_an_unknown_form_of_address_is_not_fatal,
            test_a_full_notification_socket_does_not_block,
            test_without_the_variable_nothing_is_sent_and_nothing_fails,
        }
        Environment {
            test_what_counts_as_systemd,
            test_a_program_with_more_rights_than_its_starter_does_not_believe_it,
            test_a_service_that_changes_its_user_still_believes_it,
            test_directories_are_reported,
            test_describe_standalone,
            test_describe_under_systemd,
            test_a_reader_bound_under_systemd_gives_back_what_it_made,
        }
    }
    test_writer_connection {
        Dialling {
            test_start_returns_at_once_and_connects_before_any_message,
            test_start_twice_is_one_connection,
            test_nobody_there_is_reported_within_a_second,
            test_the_first_report_comes_at_once,
            test_backoff_grows_and_is_not_a_hot_loop,
            test_max_backoff_bounds_the_pause,
            test_a_listener_that_appears_is_found_within_a_second,
            test_messages_queued_meanwhile_arrive_in_order_on_one_connection,
            test_a_full_backlog_is_waited_for_within_the_dial_timeout,
            test_a_backlog_that_stays_full_is_reported,
            test_a_socket_of_another_type_is_reported,
            test_stop_inside_the_error_callback_is_refused,
        }
        Breaking {
            test_a_frame_is_never_continued_on_another_connection,
            test_a_break_in_the_middle_of_a_batch_resumes_at_the_first_frame_not_taken,
            test_a_reader_that_closes_at_once_is_a_write_failure,
            test_the_counter_is_right_inside_the_callback,
            test_reconnect_after_a_broken_write_is_immediate,
            test_a_peer_that_goes_while_idle_is_noticed_and_is_no_failure,
            test_is_connected_tells_the_truth_while_idle,
            test_unread_bytes_of_a_reader_that_dies_are_suspected_lost,
            test_a_reader_that_has_read_all_leaves_no_suspicion,
            test_shut_rd_by_the_reader_loses_and_repeats_nothing,
        }
        SlowReader {
            test_backpressure_is_reported_and_keeps_connection_order_and_partial_frame,
            test_progress_is_no_backpressure,
            test_a_slow_reader_slows_its_own_writer_only,
        }
        Poison {
            test_an_oversize_message_is_given_up_and_those_behind_arrive,
            test_between_attempts_there_is_backoff,
            test_max_attempts_zero_never_gives_up,
            test_a_connect_that_fails_is_no_attempt,
            test_innocent_messages_are_not_blamed,
            test_a_writer_can_stop_while_a_message_keeps_breaking,
        }
    }
}

/// The tests that the Python files define, as `module.Class.test`.
fn defined() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(project("ffi-tests/python")).expect("ffi-tests/python") {
        let path = entry.expect("an entry of ffi-tests/python").path();
        let module = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if !module.starts_with("test_") || path.extension().is_none_or(|extension| extension != "py") {
            continue;
        }
        let source = fs::read_to_string(&path).expect("a Python file");
        let mut class = "";
        for line in source.lines() {
            if let Some(rest) = line.strip_prefix("class ") {
                class = rest.split(['(', ':']).next().unwrap_or_default();
            } else if let Some(rest) = line.strip_prefix("    def test_") {
                let name = rest.split('(').next().unwrap_or_default();
                found.insert(format!("{module}.{class}.test_{name}"));
            }
        }
    }
    found
}

/// Every id of the parity list.
fn parity_ids() -> Vec<String> {
    let ranges = [
        ("F", 1, 14),
        ("O", 1, 14),
        ("P", 1, 8),
        ("S", 1, 13),
        ("W", 1, 24),
        ("W", 30, 38),
        ("R", 1, 14),
        ("A", 1, 4),
        ("R", 30, 36),
        ("M", 1, 5),
        ("T", 1, 16),
    ];
    ranges.iter().flat_map(|&(letter, first, last)| (first..=last).map(move |n| format!("{letter}{n}"))).collect()
}

#[test]
fn every_python_test_has_its_rust_test() {
    let listed: BTreeSet<String> = LISTED.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(listed.len(), LISTED.len(), "a scenario is listed twice");
    let defined = defined();
    let forgotten: Vec<_> = defined.difference(&listed).collect();
    let invented: Vec<_> = listed.difference(&defined).collect();
    assert!(forgotten.is_empty(), "defined in Python and not run: {forgotten:#?}");
    assert!(invented.is_empty(), "listed here and not defined in Python: {invented:#?}");
}

#[test]
fn the_parity_list_is_whole_and_names_tests_that_exist() {
    let text = fs::read_to_string(project("ffi-tests/parity.md")).expect("ffi-tests/parity.md");
    let (text, go_tests) = text.split_once("\n## The Go library's own tests").expect("the section on Go's own tests");
    let defined = defined();
    for line in go_tests.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Go test ")) {
        let test = line.split('`').nth(1).unwrap_or_else(|| panic!("names no test: {line}"));
        assert!(defined.contains(&format!("test_go_scenarios.{test}")), "{line} names a test which does not exist");
    }
    let mut seen = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, go, shown_by, ours] = cells[..] else { panic!("not four columns: {line}") };
        assert!(!go.is_empty() && !ours.is_empty(), "{id} has an empty column");
        let named: Vec<&str> = line.split('`').filter(|word| word.starts_with("test_")).collect();
        for test in &named {
            assert!(defined.contains(*test), "{id} names {test}, which does not exist");
        }
        assert!(shown_by.contains("`test_") || ours.contains("api.md"), "{id} names neither a test nor api.md");
        seen.push(id.to_owned());
    }
    assert_eq!(seen, parity_ids(), "the ids, in order");
}
