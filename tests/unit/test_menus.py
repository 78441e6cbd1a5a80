"""Boot menus, as the programs of distributions write them."""

from stillframe.systems.menus import Include, parse_entry_file, parse_grub_menu, parse_search, parse_syslinux

ROOT = "f49436d9-25ca-4a1f-99eb-0ce08b60a660"
# What grub-mkconfig of Debian 12 writes, shortened; the last entry is os-prober's.
DEBIAN = f"""
set default="0"
if [ x$feature_default_font_path = xy ] ; then
   font=unicode
else
insmod part_gpt
search --no-floppy --fs-uuid --set=root {ROOT}
    font="/usr/share/grub/unicode.pf2"
fi
function gfxmode {{
        set gfxpayload="${{1}}"
}}
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux $menuentry_id_option 'gnulinux-simple-{ROOT}' {{
        load_video
        insmod ext2
        if [ x$feature_platform_search_hint = xy ]; then
          search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2 --hint-efi=hd0,gpt2  {ROOT}
        else
          search --no-floppy --fs-uuid --set=root {ROOT}
        fi
        echo    'Loading Linux 6.1.0-18-amd64 ...'
        linux   /boot/vmlinuz-6.1.0-18-amd64 root=UUID={ROOT} ro  quiet
        echo    'Loading initial ramdisk ...'
        initrd  /boot/initrd.img-6.1.0-18-amd64
}}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-{ROOT}' {{
        menuentry 'Debian GNU/Linux, with Linux 6.1.0-18-amd64 (recovery mode)' --class debian {{
                search --no-floppy --fs-uuid --set=root {ROOT}
                linux   /boot/vmlinuz-6.1.0-18-amd64 root=UUID={ROOT} ro single
        }}
}}
menuentry 'Windows Boot Manager (on /dev/sda1)' --class windows --class os {{
        insmod fat
        search --no-floppy --fs-uuid --set=root 1A2B-3C4D
        chainloader /EFI/Microsoft/Boot/bootmgfw.efi
}}
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {{
        fwsetup
}}
if [ -f  ${{config_directory}}/custom.cfg ]; then
  source ${{config_directory}}/custom.cfg
fi
"""


def test_a_menu_of_debian() -> None:
    menu = parse_grub_menu(DEBIAN)
    assert [(entry.title, entry.volume, entry.kernel, entry.program) for entry in menu.entries] == [
        ("Debian GNU/Linux", f"UUID={ROOT}", "/boot/vmlinuz-6.1.0-18-amd64", ""),
        ("Debian GNU/Linux, with Linux 6.1.0-18-amd64 (recovery mode)", f"UUID={ROOT}", "/boot/vmlinuz-6.1.0-18-amd64",
         ""),
        ("Windows Boot Manager (on /dev/sda1)", "UUID=1A2B-3C4D", "", "/EFI/Microsoft/Boot/bootmgfw.efi"),
    ]  # fmt: skip
    first = menu.entries[0]
    assert (first.initrds, first.options) == (("/boot/initrd.img-6.1.0-18-amd64",), f"root=UUID={ROOT} ro quiet")
    assert menu.includes == ()


def test_the_small_menu_on_an_esp_leads_to_the_large_one() -> None:
    for prefix in ("($root)'/boot/grub'", "($root)/boot/grub", '"($root)/boot/grub"'):
        menu = parse_grub_menu(
            f"search.fs_uuid {ROOT} root hd0,gpt2 \nset prefix={prefix}\nconfigfile $prefix/grub.cfg\n"
        )
        assert menu.includes == (Include(volume=f"UUID={ROOT}", path="/boot/grub/grub.cfg"),)
    assert parse_grub_menu("configfile $prefix/grub.cfg\n", folder="/EFI/x").includes[0].path == "/EFI/x/grub.cfg"


def test_fedora_keeps_its_entries_in_files() -> None:
    menu = parse_grub_menu(
        f'search --no-floppy --set=root --fs-uuid {ROOT}\nset kernelopts="ro"\ninsmod blscfg\nblscfg\n'
    )
    assert (menu.has_entry_files, menu.volume) == (True, f"UUID={ROOT}")
    entry = parse_entry_file(
        "title Fedora Linux (6.5.6-300.fc39.x86_64) 39 (Workstation)\nversion 6.5.6-300.fc39.x86_64\n"
        "linux /vmlinuz-6.5.6-300.fc39.x86_64\ninitrd /initramfs-6.5.6-300.fc39.x86_64.img $tuned_initrd\n"
        f"options root=UUID={ROOT} ro rootflags=subvol=root rhgb quiet\ngrub_users $grub_users\n"
    )
    assert entry is not None
    assert (entry.kernel, entry.initrds) == (
        "/vmlinuz-6.5.6-300.fc39.x86_64", ("/initramfs-6.5.6-300.fc39.x86_64.img",)
    )  # fmt: skip
    assert entry.options == f"root=UUID={ROOT} ro rootflags=subvol=root rhgb quiet"
    assert parse_entry_file("title nothing\n") is None


def test_paths_are_filled_and_made_plain() -> None:
    text = "menuentry x {\n linux $prefix/../vmlinuz root=/dev/sda1\n initrd ($root)/a.img ($root)/b.img\n}\n"
    entry = parse_grub_menu(text, folder="/boot/grub").entries[0]
    assert (entry.kernel, entry.initrds) == ("/boot/vmlinuz", ("/a.img", "/b.img"))


def test_what_a_search_looks_for() -> None:
    assert parse_search(["search", "--no-floppy", "--fs-uuid", "abc", "--set", "root"]) == "UUID=abc"
    assert parse_search(["search", "-l", "mine", "-s", "root"]) == "LABEL=mine"
    assert parse_search(["search", "--file", "--set=root", "/.disk/info"]) == "FILE=/.disk/info"
    assert parse_search(["search.fs_label", "mine", "root"]) == "LABEL=mine"
    assert parse_search(["search"]) == ""


def test_a_device_that_is_set_is_where_one_looks() -> None:
    menu = parse_grub_menu("menuentry a {\n set root='hd0,gpt2'\n linux /k root=/dev/sda2\n}\n")
    assert menu.entries[0].volume == "(hd0,gpt2)"


def test_a_menu_of_extlinux_with_its_default_first() -> None:
    menu = parse_syslinux(
        "DEFAULT virt\nTIMEOUT 10\nLABEL menu\n  KERNEL vesamenu.c32\nLABEL lts\n  MENU LABEL Linux ^lts\n"
        "  LINUX vmlinuz-lts\n  INITRD initramfs-lts\n  APPEND root=UUID=a modules=ext4\nLABEL virt\n"
        "  KERNEL /boot/vmlinuz-virt\n  APPEND initrd=/boot/initramfs-virt root=UUID=b\n"
    )
    assert [(one.title, one.kernel, one.initrds, one.options) for one in menu.entries] == [
        ("virt", "/boot/vmlinuz-virt", ("/boot/initramfs-virt",), "initrd=/boot/initramfs-virt root=UUID=b"),
        ("Linux lts", "vmlinuz-lts", ("initramfs-lts",), "root=UUID=a modules=ext4"),
    ]  # fmt: skip
