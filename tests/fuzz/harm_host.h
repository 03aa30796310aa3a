/* The same for all functions of a PCI host. */
#ifndef INSULA_TESTS_FUZZ_HARM_HOST_H
#define INSULA_TESTS_FUZZ_HARM_HOST_H

#include "base/assert.h"
#include "dev/pci/pci_host.h"
#include "harm.h"

/* Pauses, saves, loads what was changed, goes on. A machine whose state was refused is reset. */
static inline void harm_host(struct pci_host *host, struct input *in)
{
	struct state_writer w;
	struct state_reader r;
	int err;

	pci_host_quiesce(host);
	state_writer_init(&w);
	pci_host_save(host, &w);
	err = state_writer_finish(&w);
	ASSERT(!err);
	harm_state(&w, in);
	err = state_reader_init(&r, w.bytes, w.len);
	ASSERT(!err);
	err = pci_host_load(host, &r);
	if (err) {
		ASSERT(r.error[0]);
		pci_host_reset(host);
		err = pci_host_assign(host);
		ASSERT(!err);
	}
	pci_host_resume(host);
	state_reader_fini(&r);
	state_writer_fini(&w);
}

#endif
