/*
 * Saving and loading the PCI room. What is derived is not saved: where BARs
 * and ECAM stand, interrupt routes and pin counts follow from configuration
 * space. Invariant: a loaded value never sets a bit that the guest could not
 * have set itself.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dev/pci/pci_priv.h"
#include "state/stream.h"

#define SECTION_NAME_BYTES 24

static const struct state_field host_fields[] = {
	STATE_FIELD(struct pci_host_state, config_address),
	STATE_FIELD(struct pci_host_state, reset_control), STATE_END
};

static const struct state_table host_table = {
	.name = "pci",
	.version = 1,
	.size = sizeof(struct pci_host_state),
	.fields = host_fields,
};

static const struct state_field function_fields[] = {
	STATE_ARRAY(struct pci_function_state, config),
	STATE_FIELD(struct pci_function_state, intx_level),
	STATE_ARRAY(struct pci_function_state, msix_table),
	STATE_FIELD(struct pci_function_state, msix_pending), STATE_END
};

static const struct state_table function_table = {
	.name = "pci-function",
	.version = 1,
	.size = sizeof(struct pci_function_state),
	.fields = function_fields,
};

static void section_name(const struct pci_function *fn, char *name)
{
	snprintf(name, SECTION_NAME_BYTES, "pci.%02x.%x", fn->slot, fn->function);
}

void pci_host_save(struct pci_host *host, struct state_writer *writer)
{
	struct pci_function *fn;
	char name[SECTION_NAME_BYTES];

	pthread_mutex_lock(&host->lock);
	state_save(&host_table, &host->state, writer);
	for (unsigned cursor = 0; (fn = pci_host_next(host, &cursor));) {
		struct pci_function_state copy;

		pthread_mutex_lock(&host->irq_lock);
		pthread_mutex_lock(&fn->msix_lock);
		copy = fn->state;
		pthread_mutex_unlock(&fn->msix_lock);
		pthread_mutex_unlock(&host->irq_lock);
		section_name(fn, name);
		state_save_named(&function_table, name, &copy, writer);
	}
	pthread_mutex_unlock(&host->lock);

	for (unsigned cursor = 0; (fn = pci_host_next(host, &cursor));) {
		section_name(fn, name);
		if (fn->ops && fn->ops->save)
			fn->ops->save(fn->dev, name, writer);
	}
}

/* Configuration lock held. */
static void adopt(struct pci_function *fn, const struct pci_function_state *loaded)
{
	struct pci_function_state *state = &fn->state;

	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++)
		state->config[i] = (loaded->config[i] & fn->write_mask[i]) |
				   (state->config[i] & ~fn->write_mask[i]);
	pci_msix_adopt(fn, loaded);
	pci_function_mirror(fn);
	pci_function_place_bars(fn);
	pci_function_set_intx(fn, loaded->intx_level);
}

int pci_host_load(struct pci_host *host, struct state_reader *reader)
{
	struct pci_function_state loaded;
	struct pci_function *fn;
	char name[SECTION_NAME_BYTES];
	int err;

	pthread_mutex_lock(&host->lock);
	err = state_load(&host_table, &host->state, reader);
	host->state.config_address &= 0x80fffffcu;
	/* First all BARs leave, so that none finds its place taken by one yet to move. */
	for (unsigned cursor = 0; !err && (fn = pci_host_next(host, &cursor));) {
		pci_config_set(fn->state.config, PCI_COMMAND, 2, 0);
		pci_function_place_bars(fn);
	}
	for (unsigned cursor = 0; !err && (fn = pci_host_next(host, &cursor));) {
		section_name(fn, name);
		memset(&loaded, 0, sizeof(loaded));
		err = state_load_named(&function_table, name, &loaded, reader);
		if (!err)
			adopt(fn, &loaded);
	}
	if (!err)
		pci_chipset_follow(host);
	pthread_mutex_unlock(&host->lock);

	for (unsigned cursor = 0; !err && (fn = pci_host_next(host, &cursor));) {
		section_name(fn, name);
		if (fn->ops && fn->ops->load)
			err = fn->ops->load(fn->dev, name, reader);
	}
	return err;
}
