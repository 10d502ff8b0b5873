"""Which tests `.ci/run` runs and `make test` does not, so that `make test` stays under ten minutes on two cores.

`make ci` runs them, and nothing else: they have the marker `ci`. What a wheel holds is tested there alone; of all the
rest, `make test` has a shorter test.
"""

from __future__ import annotations

WHOLE = {
    "tests/actors/backends/test_children.py": ("test_the_processes_of_a_launch",),
    "tests/actors/backends/test_ray_backend.py": (
        "test_a_cluster_by_address",
        "test_one_study_through_every_disturbance",
        "test_workers_with_other_code_are_refused",
    ),
    "tests/actors/launch/test_defences.py": ("test_ray_runs_defences_as_this_process_does",),
    "tests/actors/launch/test_inline.py": ("test_the_rows_are_those_of_any_launch",),
    "tests/actors/launch/test_launch.py": ("test_the_order_of_a_list_changes_nothing",),
    "tests/actors/workers/test_own_files.py": ("test_a_launch_whose_workers_lack_the_files",),
    "tests/benchmarks/test_gpu.py": ("test_attacks_models_and_the_command_run_without_ray_polars_and_the_like",),
    "tests/chaos/test_chaos.py": ("test_killed_actors_and_a_killed_driver",),
    "tests/cluster/test_weights_once.py": ("test_one_download_for_all_processes",),
    "tests/study/analysis/test_classes.py": ("test_per_class",),
    "tests/study/analysis/test_tutorial.py": ("test_page_runs",),
    "tests/study/attacks/test_extending.py": ("test_the_attacks_run_on_two_workers_and_continue",),
    "tests/study/door/test_import.py": ("test_mypy_strict_accepts_a_users_script",),
    "tests/study/models/test_device_errors.py": ("test_memory_that_really_runs_out",),
    "tests/study/models/test_memory.py": ("test_senet154_without_a_number_of_it",),
    "tests/study/models/weights/test_fetch.py": ("test_files_of_the_hub_and_then_nothing_asks_it",),
    "tests/study/models/weights/test_random_weights.py": ("test_no_instruction_set_changes_a_weight",),
    "tests/study/report/html/test_document.py": ("test_same_run_gives_same_bytes",),
    "tests/study/storage/test_s3.py": (
        "test_a_driver_that_dies",
        "test_answers_from_an_object_store",
    ),
    "tests/study/tracking/test_offline.py": (
        "test_a_complete_study_is_tracked_from_its_rows_and_not_twice",
        "test_history_after_kills_goes_on_where_it_was",
    ),
    "tests/study/tracking/test_service.py": (
        "test_a_hostile_server_changes_no_row_and_delays_the_end_by_little",
        "test_a_server_that_goes_away_is_sent_the_rest_by_the_next_launch",
        "test_a_server_that_was_never_there",
        "test_a_study_online",
        "test_without_a_key_it_is_tracked_offline",
    ),
    "tests/test_malformed.py": ("test_broken_somewhere",),
    "tests/test_quickstart.py": ("test_optimization_and_its_matched_gradients",),
    "tests/test_wheel.py": (
        "test_a_cli_of_another_project_changes_nothing",
        "test_a_shipped_spec_is_launched_and_compared_with_a_paper",
        "test_another_projects_package_of_our_name_is_named",
        "test_commands_that_read_shipped_files",
        "test_its_workers_and_those_of_the_checkout_run_the_same_code",
        "test_the_watch_sees_an_opened_file",
        "test_what_it_puts_into_site_packages",
        "test_workers_of_ray_import_the_wheel",
    ),
    "tests/actors/workers/test_chat.py": ("test_slow_failing_filtering_and_dying_half_way",),
    "tests/undisturbed/test_chat.py": ("test_a_whole_run_and_a_killed_one",),
    "tests/undisturbed/test_progress.py": ("test_the_start_and_the_steps_of_a_unit_are_told",),
    "tests/test_pages.py": ("test_the_tutorial", "test_the_notebook"),
    "tests/test_readme.py": ("test_the_command_and_its_output",),
    "tests/undisturbed/test_python_door.py": ("test_ray_and_this_process_give_the_same_rows",),
    "tests/undisturbed/test_undisturbed.py": (
        "test_a_tuned_study_starts_two_local_rays_in_one_process",
        "test_two_workers_in_an_object_store_stopped_and_resumed",
    ),
}
"""Tests of ten seconds and more of processor time: whole runs on real Ray and W&B, a wheel, a page."""

FIRST = {
    "tests/actors/execution/test_shards.py": {
        "test_copies_are_summed_in_one_order": 1,
        "test_no_network_depends_on_shards": 2,
        "test_no_preset_depends_on_shards": 4,
    },
    "tests/actors/execution/test_study_update.py": {
        "test_an_addition_that_is_cut_short_goes_on": 3,
        "test_what_is_added_is_run_and_nothing_else": 2,
    },
    "tests/actors/launch/test_launch.py": {
        "test_actors_change_nothing": 1,
        "test_shards_change_nothing": 1,
        "test_signals_stop_and_a_launch_goes_on": 1,
    },
    "tests/golden/test_golden.py": {
        "test_commands_read_a_run_of_an_earlier_day": 6,
        "test_commands_read_a_run_of_format_1": 3,
    },
    "tests/study/attacks/components/test_changes.py": {"test_each_component_conforms": 5},
    "tests/study/attacks/components/test_ensemble_rules.py": {"test_each_conforms": 2},
    "tests/study/attacks/components/test_feature_objectives.py": {"test_conforms": 5},
    "tests/study/attacks/components/test_points_conform.py": {"test_components_conform": 4},
    "tests/study/attacks/components/test_sampled_directions.py": {"test_components_conform": 5},
    "tests/study/attacks/components/test_transforms_conform.py": {"test_components_conform": 3},
    "tests/study/attacks/components/test_views.py": {"test_it_conforms": 3},
    "tests/study/attacks/external/test_equal.py": {"test_equals_the_library": 6},
    "tests/study/attacks/test_conformance.py": {
        "test_parts_from_outside_conform": 3,
        "test_the_projects_own_components_conform": 2,
    },
    "tests/study/attacks/test_no_host_in_a_step.py": {"test_no_step_waits_for_the_device": 10},
    "tests/study/attacks/test_randomness.py": {
        "test_no_draw_depends_on_batches_order_or_neighbours": 16,
        "test_on_real_weights_not_a_bit": 1,
    },
    "tests/study/door/test_run.py": {"test_images_have_the_distances_of_their_rows": 1},
    "tests/study/models/layers/test_catalogue.py": {"test_what_the_papers_say": 18},
    "tests/study/models/rewrites/test_folding.py": {"test_same_function": 4},
    "tests/study/models/test_catalogue.py": {"test_networks_take_and_give_what_they_should": 4},
    "tests/study/models/test_loading.py": {"test_networks_of_every_zoo": 3},
    "tests/study/models/test_memory.py": {
        "test_networks_of_every_zoo_weigh_what_they_weigh_when_built": 2,
        "test_what_the_profiler_sees": 2,
    },
    "tests/study/models/test_preparation.py": {"test_native_of_timm": 1, "test_native_of_torchvision": 2},
    "tests/study/models/test_residual.py": {
        "test_decay_is_the_rewritten_network": 6,
        "test_decay_is_the_rewritten_network_at_its_own_size": 0,
    },
    "tests/study/spec/test_schema.py": {"test_shipped_specs_resolve_to_specs_that_resolve_to_themselves": 10},
    "tests/study/terminal/test_display.py": {"test_a_terminal": 1, "test_a_terminal_that_goes_away": 1},
}
"""How many of its first cases `make test` runs of a test over many networks, presets or commands."""
