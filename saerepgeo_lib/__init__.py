"""Geometry of sparse-autoencoder representations: the library under the book.

The modules stand in the order in which data flows, and each imports only from those before it:

prompts -> models, tokens -> residuals (+ noise) -> presets, saes, registry -> subject
-> points -> latents -> noisy_codes, tensors, ranks
-> noise_sweep -> statistics, effect_sizes, claims -> stratification (Case 1)
-> dimension, clusters -> arrangements (estimators of Cases 2 and 3)
-> local_representations -> structure, structure_verdict, structure_table (Case 2)
-> decoding -> edits -> scaling, interventions -> dose_response, random_walk, downstream
-> intervention_verdict, separability (Case 3)
-> study (many trainings) -> vision, vision_training, vision_study (the cases on images),
carry_over (beside language)
-> synthetic, theory -> calibration, calibration_arrangements, error_rates, ablation
(estimators against known answers)
-> records -> plots, plots_* -> repository, colab -> parameters, notebooks -> run_key, runner
-> grid, sweep, collect, compare (many runs, one table), costs (the benchmarks' record)
-> pages -> ledger, figure_index, page_header, glossary -> book, book_zip, cli

`corpus` and `training` make the shipped autoencoders. On them and on the Cases stand the grids of
trainings (`study`): sparse_probing, separability_training, separability_effects ->
separability_study (separability as a training objective), effect_sizes -> sparse_dense ->
sparse_dense_verdict (sparse against dense). `cores`, `errors`, `files`,
`strict_yaml` and `record_files` serve all.
"""
