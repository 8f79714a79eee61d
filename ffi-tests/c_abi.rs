//! The C ABI, from C and C++: one test per scenario of the programs in `ffi-tests/c`.
//!
//! Each scenario runs in a process and a folder of its own. It must end in time, succeed, and print nothing: the
//! library promises to be silent, and a program that is content has nothing to say.

#[path = "sanitizers/proof.rs"]
mod proof;
mod support;

use support::program;

/// A program that is content has nothing to say.
fn silent(scenario: &str, printed: &str) {
    assert_eq!(printed, "", "{scenario} printed something");
}

program! { nulls from "ffi-tests/c/nulls.c" as "c11", crate::silent:
    writer_options_null
    reader_options_null
    writer_null
    writer_arguments_null
    a_null_buffer_among_messages
    null_and_zero_is_an_empty_message
    impossible_lengths
    reader_null
    reader_arguments_null
    userdata_null
    connection_arguments_null
    connection_null
    paths_null
    last_error_message_null
}

program! { layout from "ffi-tests/c/layout.c" as "c11", crate::silent:
    numbers_and_prototypes_compile
    strerror_knows_every_status
    strerror_answers_every_number
    versions_agree
    metrics_of_an_older_program
    metrics_of_a_newer_program
    metrics_of_an_odd_size
}

program! { lifecycle from "ffi-tests/c/lifecycle.c" as "c11", crate::silent:
    every_call_of_a_writer_in_every_state
    every_call_of_a_reader_in_every_state
    start_from_eight_threads_starts_once
    new_touches_no_file
    messages_queued_before_start_arrive
}

program! { stop from "ffi-tests/c/stop.c" as "c11", crate::silent:
    writer_stop_before_start_empty
    writer_stop_before_start_with_messages
    writer_stop_twice
    writer_stop_from_ten_threads
    writer_stop_zero_with_messages
    writer_stop_zero_with_nothing
    writer_stop_nobody_listens
    writer_stop_stale_socket
    writer_stop_reader_gone
    writer_stop_drain_until_deadline
    writer_stop_reader_appears_during_drain
    writer_stop_reader_never_reads
    writer_stop_waits_for_a_slow_reader
    writer_stop_reconnects
    writer_stop_with_a_tireless_producer
    writer_stop_dispatched
    writer_stop_wakes_waiting_callers
    writer_free_while_running
    reader_stop_before_start
    reader_stop_before_start_with_messages
    reader_stop_twice_and_from_ten_threads
    reader_stop_with_idle_connections
    reader_stop_zero
    reader_stop_serves_the_backlog
    reader_stop_empties_the_kernel_buffers
    reader_stop_waits_for_running_callbacks
    reader_stop_under_a_flood
    no_callback_after_stop
    reader_stop_dispatched
    reader_stop_while_eight_threads_dispatch
    reader_free_while_running
}

program! { callbacks from "ffi-tests/c/callbacks.c" as "c11", crate::silent:
    data_and_userdata_arrive_as_they_were
    write_copies
    error_callbacks_get_userdata_and_text
    options_may_be_changed_and_freed_after_new
    failing_handler
    batch_with_partial_results
    batch_that_claims_too_many
    reader_stop_inside_a_callback_threaded
    reader_stop_inside_a_callback_dispatched
    reader_stop_inside_an_error_callback
    writer_stop_inside_a_callback_threaded
    writer_stop_inside_a_callback_dispatched
    reader_free_inside_a_callback_threaded
    reader_free_inside_a_callback_dispatched
    reader_free_inside_a_batch_callback
    writer_free_inside_a_callback_threaded
    writer_free_inside_a_callback_dispatched
    every_function_inside_a_message_callback
    every_function_inside_an_error_callback
    another_handle_is_freed_inside_a_callback
    callbacks_inside_callbacks
}

program! { crew from "ffi-tests/c/crew.c" as "c11", crate::silent:
    fifty_writers_keep_their_order
    a_hundred_idle_writers_are_no_more_threads_than_one
    the_last_stop_takes_the_threads_along
    a_blocked_error_callback_delays_its_own_writer_only
    a_callback_may_do_anything_with_other_writers
    a_stop_does_not_wait_for_busy_writers
    writers_come_and_go_in_eight_threads
    a_forked_child_has_threads_of_its_own
    regress_free_while_a_thread_starts
    regress_nothing_happens_after_stop
    regress_the_first_ending_is_the_one_that_is_told
    regress_a_stop_does_not_wait_for_the_callback_of_another
    regress_nothing_is_left_when_free_returns
    regress_a_forked_child_meets_no_thread_of_its_parent
}

program! { threads from "ffi-tests/c/threads.c" as "c11", crate::silent:
    eight_threads_on_one_writer
    eight_threads_wait_for_room
    stop_under_load
    forced_stop_under_load
    every_call_from_other_threads_under_load
    eight_writers_one_reader
    a_blocked_callback_delays_its_own_connection_only
    one_handler_thread_never_overlaps
    no_more_handler_threads_than_allowed
    idle_handler_threads_leave
    a_flood_does_not_starve_the_others
    write_timeout_passes
    write_timeout_is_woken_by_room
    flush_waits_for_the_reader
    flush_comes_back_under_load
}

program! { limits from "ffi-tests/c/limits.c" as "c11", crate::silent:
    reader_takes_max_and_refuses_one_more
    nothing_behind_a_refused_frame_is_delivered
    what_stands_before_a_refused_frame_is_delivered
    default_limit_is_ten_mebibytes
    limit_zero_refuses_every_message
    empty_frames_are_passed_over
    writer_takes_max_and_refuses_one_more
    writer_default_limit_is_ten_mebibytes
    queue_holds_exactly_its_limit
    write_messages_says_how_far_it_came
    queue_has_a_limit_in_bytes
    malformed_prefixes
    huge_lengths
    huge_lengths_without_a_limit
    non_minimal_prefixes_are_accepted
    truncated_frames
    the_end_between_frames_is_silent
    frames_in_any_number_of_pieces
    announcements_reserve_no_memory
    passed_descriptors_do_not_pile_up
    inactivity_is_silent_between_frames
    inactivity_inside_a_payload_is_an_error
    every_frame_restarts_the_inactivity_timeout
    inactivity_can_be_switched_off
    writers_lose_nothing_to_inactivity
}

program! { options from "ffi-tests/c/options.c" as "c11", crate::silent:
    writer_options_ranges
    reader_options_ranges
    a_refusal_says_what_is_wrong
    a_refused_value_leaves_the_old_one
    the_default_queue_holds_ten_thousand
    path_lengths
    a_refused_reader_touches_nothing
    parents_are_made
    a_live_reader_keeps_its_path
    a_stale_socket_is_replaced
    other_files_are_left_alone
    a_foreign_socket_file_is_not_removed
    mode_and_group
    abstract_addresses
    paths_need_not_be_utf8
    of_many_starters_one_wins
    resolve_follows_the_runtime_directory
    a_reader_follows_the_runtime_directory
}

program! { reconnect from "ffi-tests/c/reconnect.c" as "c11", crate::silent:
    nobody_listens
    messages_wait_for_the_reader
    reader_restarts_lose_nothing
    idle_peer_close_is_noticed
    killed_readers
    unread_messages_are_suspected_lost
    flush_is_told_of_a_loss
    read_messages_are_not_suspected_lost
    a_cut_frame_is_sent_again_whole
    a_poison_message_is_given_up
    without_a_limit_a_message_is_tried_for_ever
    a_message_too_large_for_the_reader
    backpressure_keeps_everything
    a_full_backlog_is_waited_out
    stop_ends_a_wait_for_a_full_backlog
}

program! { guest from "ffi-tests/c/guest.c" as "c11", crate::silent:
    sigpipe_at_its_default
    library_threads_block_all_signals
    signals_are_the_hosts
    interrupted_calls_go_on
    host_state_is_left_alone
    descriptors_are_closed_on_exec
    a_forked_child_leaves_the_parent_alone
    a_forked_child_that_just_exits
    a_forked_child_frees_dispatched_handles
    fork_under_load
}

program! { churn from "ffi-tests/c/churn.c" as "c11", crate::silent:
    churn_new_and_free
    churn_start_and_free
    churn_whole_life
    churn_dispatched_life
    churn_refused_life
    churn_options
    churn_connections
    churn_readers_under_a_writer
}

program! { eventloop from "ffi-tests/c/eventloop.c" as "c11", crate::silent:
    exchange_in_one_thread
    the_descriptor_is_stable
    readable_while_there_is_work
    a_writer_is_readable_while_there_is_work
    a_full_pipe_is_no_busy_loop
    idle_is_no_busy_loop
    idle_close_wakes_the_host
    backoff_wakes_the_host
    backpressure_wakes_the_host
    nested_in_an_epoll_set_of_the_host
    callbacks_run_in_the_dispatching_call
    dispatch_waits_as_long_as_it_was_told
    flush_and_waiting_writes_drive_the_writer
    stop_from_another_thread_ends_a_dispatch
    start_and_dispatch_exclude_each_other
    a_flood_does_not_capture_dispatch
}

program! { peers from "ffi-tests/c/peers.c" as "c11", crate::silent:
    credentials_are_the_peers
    connection_ids
    allow_uid_of_oneself
    allow_gid_of_oneself
    allow_lists_for_other_users
    a_writer_that_is_turned_away
    max_connections
    a_writer_waits_for_a_place
    five_hundred_connections
}

program! { header from "ffi-tests/c/header.cpp" as "c++11", crate::silent:
    c_functions_from_cpp
    objects_exchange_messages
    batches_and_options
    exceptions_do_not_leave_callbacks
    failures_are_exceptions
    objects_move
    dispatched_objects
}
