"""Steps with sparse gradients: only the rows that have a gradient are touched.

1. `entries` takes a gradient as it was given, a pair ``(rows, values)`` or an array of scipy.sparse,
   checks it, and brings it into one form: rows that rise, each with its summed values.
2. `row_stepper` is what the stepper in memory asks: it keeps a `LaggingRows` for each parameter that
   ever got a sparse gradient.
3. `row_driver` is compiled: it walks over the touched rows and calls the kernel of whole arrays on
   each, with an address from which the row's gradient is found among the values. `row_loops` has the
   other compiled loops: sort, group duplicates, sum, multiply.

With ``sparse="lazy"`` that is all. With ``sparse="exact"`` the untouched rows must become what zero
gradients make of them, without being touched:

4. `closed_form` finds what a step without a gradient does to the variables of one element (parameter
   and states). It is linear for every chain that is accepted, so a step is a small matrix.
5. `lagging_rows` notes that matrix for each step, in a binary tree of products. A row remembers the
   step at which it was left, and so needs one matrix to catch up with any number of steps.
6. `catch_up` generates the transform that applies such a matrix. It is compiled and run like any other,
   just before the row's own step or when it is read.
"""
