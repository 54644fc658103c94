"""One file for each system, imported in that system's environment by its worker and by ``benchmarks.driver``.

Each has a no-op task with JSON arguments, ``add(number, one)``, which stamps its number, and these functions:

    send(first, count)            send the tasks first … first + count - 1, one at a time
    send_bulk(first, count)       the same with the system's own way to send many, where it has one
    send_delayed(first, count, seconds)     the same, due later, where it has such tasks
    round_trips(first, count)     send a task, wait for its result, again; gives the seconds of each
    stored_results()              how many results of success are stored
"""
